//! Pages of tasks, which lie beside the reports of builds.

use manifests::digest;
use serde::Serialize;
use workers::WorkerError;
use workers::stores::WorkStore;

/// Makes a page, unless the one that is there shows the same figures; where it lies.
pub(super) async fn put(
    work: &WorkStore,
    path: &str,
    figures: &impl Serialize,
    make: impl AsyncFnOnce() -> Result<String, WorkerError>,
) -> Result<String, WorkerError> {
    let last_line = format!("<!-- figures {} -->\n", digest::of_value(figures));
    let there = work.get(path).await?;
    if !there.is_some_and(|page| page.ends_with(last_line.as_bytes())) {
        let mut page = make().await?;
        if !page.ends_with('\n') {
            page.push('\n');
        }
        work.put(path, (page + &last_line).into()).await?;
    }
    Ok(match work.local_folder() {
        Some(folder) => folder.join(path).display().to_string(),
        None => format!("{}{path}", work.url()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_page_is_made_again_only_for_other_figures() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(&folder.path().display().to_string(), &Default::default()).unwrap();
        let path = put(&work, "reports/x.html", &[1.0], async || Ok("first".into())).await.unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("first\n<!-- figures "));
        put(&work, "reports/x.html", &[1.0], async || panic!("it is there")).await.unwrap();
        put(&work, "reports/x.html", &[2.0], async || Ok("second".into())).await.unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("second\n"));
    }
}
