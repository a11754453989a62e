//! Croissant: a data set described for programs (<https://docs.mlcommons.org/croissant/docs/croissant-spec.html>).

use manifests::spec::SourceKind;
use serde_json::{Value, json};

use super::data_card::Facts;
use super::licence::ODBL;

const PARQUET: &str = "application/x-parquet";
const FILES: &str = "parquet-files";

/// Columns that a search or a filter asks for; tags are JSON of their own.
const COLUMNS: [(&str, &str); 13] = [
    ("image_id", "sc:Text"),
    ("captioner", "sc:Text"),
    ("split", "sc:Text"),
    ("country", "sc:Text"),
    ("source", "sc:Text"),
    ("osm_kind", "sc:Text"),
    ("time", "sc:Text"),
    ("west", "sc:Float"),
    ("south", "sc:Float"),
    ("east", "sc:Float"),
    ("north", "sc:Float"),
    ("center_tags", "sc:Text"),
    ("surrounding_tags", "sc:Text"),
];

/// The content of `croissant.json`.
pub(super) fn describe(facts: &Facts<'_>) -> String {
    let field = |name: &str, kind: &str| {
        json!({
            "@type": "cr:Field",
            "@id": format!("images/{name}"),
            "name": name,
            "dataType": kind,
            "source": { "fileSet": { "@id": FILES }, "extract": { "column": name } },
        })
    };
    let mut image = field("image", "sc:ImageObject");
    image["source"]["transform"] = json!({ "jsonPath": "bytes" });
    let mut captions = field("captions", "sc:Text");
    captions["repeated"] = true.into();
    let mut fields = vec![image, captions];
    fields.extend(COLUMNS.iter().map(|(name, kind)| field(name, kind)));

    let mut distribution = vec![json!({
        "@type": "cr:FileSet",
        "@id": FILES,
        "name": FILES,
        "description": "All Parquet files.",
        "encodingFormat": PARQUET,
        "includes": "data/*.parquet",
    })];
    distribution.extend(facts.written.files.iter().map(|file| {
        json!({
            "@type": "cr:FileObject",
            "@id": file.path,
            "name": file.path,
            "contentUrl": file.path,
            "contentSize": format!("{} B", file.bytes),
            "encodingFormat": PARQUET,
            "sha256": file.sha256,
        })
    }));
    let mut dataset = json!({
        "@context": context(),
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": format!("urbancross_{}", facts.spec.country),
        "description": format!("{}: {} images.", facts.title(), facts.images()),
        "version": "1.0.0",
        "datePublished": facts.changed_at.split(' ').next(),
        "distribution": distribution,
        "recordSet": [{ "@type": "cr:RecordSet", "@id": "images", "name": "images", "field": fields }],
    });
    if facts.spec.source.kind == SourceKind::Skyscript {
        dataset["license"] = ODBL.into();
        dataset["creditText"] = "© OpenStreetMap contributors; terms of the images: see README.md".into();
        dataset["citeAs"] = "Tags: © OpenStreetMap contributors. Images: SkyScript, arXiv 2312.12856.".into();
        dataset["url"] = "https://github.com/wangzhecheng/SkyScript".into();
    }
    format!("{dataset:#}\n")
}

/// The context that the specification prescribes.
fn context() -> Value {
    let mut context = json!({
        "@language": "en",
        "@vocab": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "dct": "http://purl.org/dc/terms/",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "sc": "https://schema.org/",
        "conformsTo": "dct:conformsTo",
        "data": { "@id": "cr:data", "@type": "@json" },
        "dataType": { "@id": "cr:dataType", "@type": "@vocab" },
        "examples": { "@id": "cr:examples", "@type": "@json" },
    });
    for term in [
        "citeAs",
        "column",
        "equivalentProperty",
        "extract",
        "field",
        "fileObject",
        "fileProperty",
        "fileSet",
        "format",
        "includes",
        "isLiveDataset",
        "jsonPath",
        "key",
        "md5",
        "parentField",
        "path",
        "recordSet",
        "references",
        "regex",
        "repeated",
        "replace",
        "samplingRate",
        "separator",
        "source",
        "subField",
        "transform",
    ] {
        context[term] = format!("cr:{term}").into();
    }
    context
}
