//! The page of a refresh, where it has nothing to tell.

use atlas::{Desk, Trouble};
use manifests::{Artifact, paths};
use pipeline::serve::{Specs, StoreDesk};
use pipeline_tests::{World, run_with};

use super::{diffs, extract, refresh, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_is_told_no_more_is_refused_in_words() {
    let world = World::new(40);
    let spec = world.spec("work", &[]);
    std::fs::write(world.path("finland.toml"), spec.to_toml()).unwrap();
    run_with(spec.clone(), until("captions")).await.unwrap();
    refresh(&spec, extract(&world.path("world/extract.osm.pbf")), Some(0.0)).await.unwrap();
    let (build, _) = run_with(spec.clone(), until("captions")).await.unwrap();
    let before = build.tables.pin(Artifact::Geotags, "finland", None).await.unwrap();
    sandbox::edit_map(&world.path("world"), 0.3, 5).unwrap();
    refresh(&spec, diffs(&world), Some(1.0)).await.unwrap();
    let (build, _) = run_with(spec.clone(), until("captions")).await.unwrap();
    let after = build.tables.pin(Artifact::Geotags, "finland", None).await.unwrap();

    let (specs, _) = Specs::read(&[world.path("finland.toml")], &[]).unwrap();
    let desk = StoreDesk::open(&specs).await.unwrap();
    let version = desk.edits("finland".into()).await.unwrap()[0].version;
    desk.edited("finland".into(), version).await.unwrap();
    // one that is none, as in a link to one of long ago
    let trouble = desk.edited("finland".into(), 999).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::NotThere(why) if why.contains("version 999")), "{trouble:?}");
    // as after `gc`
    let replaced: Vec<_> = before.parts.iter().filter(|part| after.part(part.shard) != Some(part)).collect();
    assert!(!replaced.is_empty());
    for part in replaced {
        std::fs::remove_file(world.path("work").join(paths::table(Artifact::Geotags)).join(&part.path)).unwrap();
    }
    let trouble = desk.edited("finland".into(), version).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::Refused(why) if why.contains("cleared away")), "{trouble:?}");
}
