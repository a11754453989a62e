//! Whose the words and pictures of a build are, as far as a spec and the names of images tell.

use std::collections::BTreeMap;

use manifests::BuildSpec;
use manifests::spec::SourceKind;
use sources::source::source_of;

/// Licence of OpenStreetMap's data.
pub(super) const ODBL: &str = "https://opendatacommons.org/licenses/odbl/1-0/";

/// The licence fields of a card's header.
pub(super) fn header(spec: &BuildSpec) -> String {
    match spec.source.kind {
        SourceKind::Skyscript => {
            format!("license: other\nlicense_name: odbl-and-terms-of-image-sources\nlicense_link: {ODBL}\n")
        }
        SourceKind::Captioned => "license: unknown\n".to_owned(),
    }
}

/// A section of a card. `sources` counts images by the token of their source; empty: not known.
pub(super) fn section(spec: &BuildSpec, sources: &BTreeMap<String, u64>) -> String {
    let mut text = "## Licence and attribution\n\n".to_owned();
    if spec.source.kind == SourceKind::Captioned {
        text += "Images and captions are those of a folder that somebody else has put together; what may be done with them is \
                 for its makers to say. Write it here before you pass this on.\n";
        return text;
    }
    text += &format!(
        "Tags, and the captions made of them: **© OpenStreetMap contributors**, under the [Open Database License]({ODBL}) \
         (ODbL). Whoever uses them publicly names them so, and shares a database derived from them under the same licence; \
         see [openstreetmap.org/copyright](https://www.openstreetmap.org/copyright).\n\n\
         Images: chosen and cut by [SkyScript](https://github.com/wangzhecheng/SkyScript) \
         ([arXiv 2312.12856](https://arxiv.org/abs/2312.12856)), which states no licence of its own. Each image is under the \
         terms of the collection that it was cut from, and its provider is to be named as that page asks:\n\n"
    );
    if sources.is_empty() {
        text += "the token in an image's name (`_FI_`) says which it is.\n";
        return text;
    }
    text += "| token | images | collection |\n|---|---:|---|\n";
    for (token, images) in sources {
        let collection = match source_of(token) {
            Some(source) => {
                let page = source.collection.replace('/', "_");
                format!("[{}](https://developers.google.com/earth-engine/datasets/catalog/{page})", source.collection)
            }
            None => "not one of SkyScript's".to_owned(),
        };
        text += &format!("| {} | {images} | {collection} |\n", plain(token));
    }
    text
}

/// A token comes from a name of a file.
fn plain(token: &str) -> String {
    token.chars().filter(|c| c.is_ascii_alphanumeric()).collect()
}
