//! Writes a report with every kind of block, from made-up numbers and drawn pictures.
//!
//! `cargo run -p report --example gallery -- gallery.html`

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use report::*;

fn main() -> std::io::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "gallery.html".to_owned());
    let page = render(&gallery());
    std::fs::write(&path, &page)?;
    println!("{path}: {} kB", page.len() / 1000);
    Ok(())
}

fn gallery() -> Report {
    Report {
        title: "Finland to Spain".into(),
        subtitle: "Satellite image–text retrieval, adapted across countries. All numbers on this page are made up."
            .into(),
        generated_at: "22 November 2026, 05:15 UTC".into(),
        facts: vec![
            Fact::new("images", "104,824"),
            Fact::new("distinct captions", "31,207"),
            Fact::new("segments", "412,630"),
            Fact::new("mean recall, Spain", "38.4 %"),
            Fact::new("build time", format_duration(4_980.0)),
        ],
        sections: vec![build(), data(), training(), results(), panels(), details()],
    }
}

fn build() -> Section {
    let stage = |name: &str, computed, copied, errors| FlowStage { name: name.into(), computed, copied, errors };
    let edges = [
        ("ingest", "images"),
        ("ingest", "geotags"),
        ("images", "segments"),
        ("images", "captions"),
        ("geotags", "captions"),
        ("segments", "segment_features"),
        ("captions", "segment_scores"),
        ("segment_features", "segment_scores"),
        ("segment_scores", "pretrain"),
        ("images", "pretrain"),
        ("captions", "pretrain"),
        ("pretrain", "adapt"),
        ("adapt", "embeddings"),
        ("embeddings", "evaluate"),
        ("captions", "embeddings"),
    ];
    let span = |stage: &str, start_seconds, duration_seconds, rows| Span {
        stage: stage.into(),
        start_seconds,
        duration_seconds,
        rows,
    };
    Section {
        id: String::new(),
        title: "What this build did".into(),
        lead: "1 % of the geo-tags changed since the last build. Only the captions of those rows, and what reads \
            them, were computed again; masks and image embeddings were not touched."
            .into(),
        blocks: vec![
            Block::Flow(Flow {
                caption: "Rows by stage. A box with an orange border has rows in error; they are listed in its table and \
                    tried again by the next build."
                    .into(),
                stages: vec![
                    stage("ingest", 1_048, 103_776, 0),
                    stage("images", 0, 104_824, 0),
                    stage("geotags", 1_048, 103_776, 0),
                    stage("segments", 0, 104_821, 3),
                    stage("captions", 1_048, 103_776, 0),
                    stage("segment_features", 0, 104_821, 0),
                    stage("segment_scores", 1_048, 103_773, 0),
                    stage("pretrain", 15, 0, 0),
                    stage("adapt", 5, 0, 0),
                    stage("embeddings", 104_824, 0, 0),
                    stage("evaluate", 20_965, 0, 0),
                ],
                edges: edges.map(|(from, to)| (from.into(), to.into())).to_vec(),
            }),
            Block::Timeline(Timeline {
                caption: "Wall time by stage; two workers captioned.".into(),
                spans: vec![
                    span("ingest", 0.0, 212.0, 1_048),
                    span("captions", 215.0, 390.0, 531),
                    span("captions", 230.0, 341.0, 517),
                    span("segment_scores", 610.0, 88.0, 1_048),
                    span("pretrain", 700.0, 2_900.0, 73_377),
                    span("adapt", 3_610.0, 920.0, 20_112),
                    span("embeddings", 4_535.0, 371.0, 104_824),
                    span("evaluate", 4_910.0, 66.0, 20_965),
                ],
            }),
            Block::Note {
                level: Level::Warning,
                text: "Three images could not be segmented: the decoder reports a truncated JPEG. Their rows carry the error.".into(),
            },
        ],
    }
}

fn data() -> Section {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let lengths: Vec<f64> =
        (0..20_000).map(|_| (0..6).map(|_| rng.random_range(2.0..7.0)).sum::<f64>().round()).collect();
    let group = |name: &str, tags: &[(&str, f64)]| TagGroup {
        name: name.into(),
        tags: tags.iter().map(|(tag, count)| ((*tag).to_owned(), *count)).collect(),
    };
    let cluster = |name: &str, (cx, cy): (f64, f64), rng: &mut ChaCha8Rng| Cluster {
        name: name.into(),
        points: (0..60)
            .map(|index| {
                let angle = rng.random_range(0.0..std::f64::consts::TAU);
                let radius = rng.random_range(0.0f64..1.0).sqrt() * 0.9;
                (cx + radius * angle.cos(), cy + radius * angle.sin() * 0.7, format!("{name} {index}"))
            })
            .collect(),
    };
    Section {
        id: String::new(),
        title: "The data".into(),
        lead:
            "Finland is forest and water, Spain is fields, terraces and pools: the gap that adaptation has to bridge."
                .into(),
        blocks: vec![
            Block::TagCloud(TagCloud {
                caption: "Geo-tags by country; a word's area grows with its count.".into(),
                groups: vec![
                    group(
                        "Finland",
                        &[
                            ("forest", 9_800.0),
                            ("residential road", 7_400.0),
                            ("lake", 5_100.0),
                            ("house", 4_900.0),
                            ("farm track", 3_000.0),
                            ("wetland", 2_100.0),
                            ("jetty", 900.0),
                            ("ice rink", 410.0),
                            ("ski slope", 220.0),
                            ("sauna", 90.0),
                        ],
                    ),
                    group(
                        "Germany",
                        &[
                            ("residential road", 21_000.0),
                            ("house", 18_000.0),
                            ("farmland", 14_000.0),
                            ("allotment gardens", 5_200.0),
                            ("solar panels", 4_700.0),
                            ("soccer pitch", 3_900.0),
                            ("wind turbine", 1_600.0),
                            ("biogas plant", 700.0),
                        ],
                    ),
                    group(
                        "Spain",
                        &[
                            ("olive grove", 8_200.0),
                            ("swimming pool", 7_700.0),
                            ("residential road", 6_900.0),
                            ("vineyard", 4_100.0),
                            ("greenhouse", 2_600.0),
                            ("roundabout", 1_900.0),
                            ("bullring", 300.0),
                        ],
                    ),
                ],
            }),
            Block::Row(vec![
                Block::Histogram(Histogram {
                    caption: "Caption lengths.".into(),
                    x_label: "words".into(),
                    y_label: "captions".into(),
                    ..Histogram::from_values(&lengths, 25)
                }),
                Block::BarChart(BarChart {
                    caption: "Rows by country and split.".into(),
                    part_names: ["train", "validation", "test"].map(String::from).to_vec(),
                    bars: vec![
                        Bar { label: "Germany".into(), parts: vec![115_000.0, 16_500.0, 33_600.0] },
                        Bar { label: "Finland".into(), parts: vec![41_100.0, 5_900.0, 11_800.0] },
                        Bar { label: "Spain".into(), parts: vec![32_200.0, 4_600.0, 9_200.0] },
                    ],
                    ..BarChart::default()
                }),
            ]),
            Block::Scatter(Scatter {
                caption: "Tag co-occurrence of Finnish rows, first two principal components.".into(),
                x_label: "first component (18 % of variance)".into(),
                y_label: "second component".into(),
                clusters: vec![
                    cluster("housing", (-1.5, 0.4), &mut rng),
                    cluster("shores", (1.2, 1.1), &mut rng),
                    cluster("fields", (0.6, -1.0), &mut rng),
                ],
            }),
        ],
    }
}

fn training() -> Section {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut loss = |floor: f64, speed: f64| -> Vec<(f64, f64)> {
        (1..=3_000)
            .map(|step| (f64::from(step), floor + 3.4 * (-f64::from(step) / speed).exp() + rng.random_range(0.0..0.12)))
            .collect()
    };
    let recall =
        |values: [f64; 8]| values.iter().enumerate().map(|(epoch, value)| (epoch as f64 + 1.0, *value)).collect();
    Section {
        id: String::new(),
        title: "Training".into(),
        lead: "The segment loss helps from the third epoch on; the best epoch was chosen on validation.".into(),
        blocks: vec![
            Block::Row(vec![
                Block::LineChart(LineChart {
                    caption: "Loss by step.".into(),
                    x_label: "step".into(),
                    y_label: "loss".into(),
                    series: vec![
                        Series { name: "image–text".into(), points: loss(0.7, 500.0) },
                        Series { name: "segments–text".into(), points: loss(1.3, 900.0) },
                    ],
                    ..LineChart::default()
                }),
                Block::LineChart(LineChart {
                    caption: "Mean recall on validation; the ring marks the chosen epoch.".into(),
                    x_label: "epoch".into(),
                    y_label: "mR, %".into(),
                    best: Some(Best::Highest),
                    series: vec![
                        Series { name: "with segments".into(), points: recall([12.1, 20.4, 27.9, 32.0, 34.8, 36.9, 37.6, 37.1]) },
                        Series { name: "without".into(), points: recall([12.6, 20.1, 26.0, 29.7, 31.9, 33.0, 33.4, 33.3]) },
                        Series { name: "zero-shot".into(), points: recall([15.7; 8]) },
                    ],
                    ..LineChart::default()
                }),
            ]),
            Block::LineChart(LineChart {
                caption: "Learning rate against mean recall.".into(),
                x_label: "learning rate".into(),
                y_label: "mR, %".into(),
                x_log: true,
                best: Some(Best::Highest),
                series: vec![Series {
                    name: "mR".into(),
                    points: vec![(1e-7, 18.2), (3e-7, 22.0), (1e-6, 30.9), (3e-6, 35.8), (1e-5, 37.6), (3e-5, 33.1), (1e-4, 9.4)],
                }],
                ..LineChart::default()
            }),
            Block::Code {
                language: "toml".into(),
                text: "[adapt]\nsource = \"finland\"\ntarget = \"spain\"\ncurriculum = \"bands\"\nbatch = [80, 16]\nlearning_rate = 1e-7\n".into(),
            },
        ],
    }
}

fn results() -> Section {
    let countries = ["Finland", "Germany", "Spain"].map(String::from).to_vec();
    let row = |name: &str, values: [f64; 7]| {
        let mut row = vec![Cell::from(name)];
        row.extend(values.map(Cell::from));
        row
    };
    let recall = |name: &str| Column::number(name).unit("%").decimals(1).best(Best::Highest);
    Section {
        id: String::new(),
        title: "Results".into(),
        lead: "Adaptation wins most where countries differ most. Every figure is over the whole test split.".into(),
        blocks: vec![
            Block::Table(Table {
                caption: "Finland to Spain, 9,214 pairs; pessimistic ties. Click a column's head to sort.".into(),
                columns: vec![
                    Column::text("method"),
                    recall("i2t R@1"),
                    recall("R@5"),
                    recall("R@10"),
                    recall("t2i R@1"),
                    recall("R@5"),
                    recall("R@10"),
                    recall("mR"),
                ],
                rows: vec![
                    row("zero-shot", [4.2, 13.0, 20.9, 4.9, 15.3, 24.4, 13.8]),
                    row("source only", [9.8, 26.1, 38.0, 10.4, 28.8, 41.1, 25.7]),
                    row("without curriculum", [14.6, 36.2, 50.1, 15.2, 38.4, 52.0, 34.4]),
                    row("without adversary", [15.0, 37.0, 51.3, 15.5, 38.8, 52.9, 35.1]),
                    row("without segments", [13.9, 35.0, 49.2, 14.8, 37.7, 51.0, f64::NAN]),
                    row("full", [16.9, 40.8, 55.2, 17.3, 42.7, 57.5, 38.4]),
                ],
            }),
            Block::Row(vec![
                Block::Heatmap(Heatmap {
                    caption: "Mean recall by country of training and of test. The diagonal is a country on itself."
                        .into(),
                    row_title: "trained on".into(),
                    column_title: "tested on, mR".into(),
                    row_labels: countries.clone(),
                    column_labels: countries,
                    values: vec![vec![44.0, 29.5, 25.7], vec![31.2, 46.1, 30.0], vec![22.8, 27.7, f64::NAN]],
                    unit: "%".into(),
                    decimals: Some(1),
                }),
                Block::BarChart(BarChart {
                    caption: "Gain in mean recall over the source model.".into(),
                    unit: "points".into(),
                    decimals: Some(1),
                    bars: vec![
                        Bar::new("Finland → Spain", 12.7),
                        Bar::new("Germany → Spain", 9.1),
                        Bar::new("Spain → Finland", 8.8),
                        Bar::new("Germany → Finland", 3.2),
                        Bar::new("Finland → Germany", -0.4),
                    ],
                    ..BarChart::default()
                }),
            ]),
        ],
    }
}

fn panels() -> Section {
    let hits = |correct: usize, kinds: [usize; 5]| -> Vec<Hit> {
        let hit = |(index, kind): (usize, usize)| Hit {
            rank: index as u64 + 1,
            score: 0.342 - index as f64 * 0.017,
            mark: if index + 1 == correct { Mark::Correct } else { Mark::Wrong },
            subject: Subject::Picture(scene(kind, index as u64 + 10 * kind as u64, "")),
        };
        kinds.into_iter().enumerate().map(hit).collect()
    };
    let text = |rank: u64, correct: bool, words: &str| Hit {
        rank,
        score: 0.36 - rank as f64 * 0.02,
        mark: if correct { Mark::Correct } else { Mark::Wrong },
        subject: Subject::Text(words.into()),
    };
    Section {
        id: String::new(),
        title: "What the model finds".into(),
        lead: "A query and its nearest neighbours. Green with a tick is the true pair, orange with a cross is not.".into(),
        blocks: vec![
            Block::Retrieval(Retrieval {
                caption: "Best and worst query of the test split by rank of the true answer, and an image that asks for its caption.".into(),
                panels: vec![
                    RetrievalPanel {
                        label: "best".into(),
                        query: Subject::Text("a satellite image of a soccer pitch, surrounded by two residential roads and a house".into()),
                        hits: hits(1, [0, 0, 1, 2, 0]),
                        true_rank: None,
                    },
                    RetrievalPanel {
                        label: "worst".into(),
                        query: Subject::Text("a satellite image of a pond, surrounded by woodland".into()),
                        hits: hits(0, [2, 1, 2, 2, 1]),
                        true_rank: Some(4_108),
                    },
                    RetrievalPanel {
                        label: "image to text".into(),
                        query: Subject::Picture(scene(1, 7, "")),
                        hits: vec![
                            text(1, false, "a satellite image of a house, surrounded by three other houses"),
                            text(2, true, "a satellite image of a residential road, surrounded by many houses"),
                            text(3, false, "a satellite image of allotment gardens, surrounded by a farm track and a hedge"),
                        ],
                        true_rank: None,
                    },
                ],
            }),
            Block::Found(FoundGrid {
                caption: "A search: the pictures that fit best, with what is known of them.".into(),
                query: Subject::Text("a soccer pitch beside houses".into()),
                cards: (0..6u64)
                    .map(|index| FoundCard {
                        rank: index + 1,
                        score: 0.42 - index as f64 * 0.021,
                        picture: scene(index as usize % 3, 60 + index, "").bytes,
                        id: format!("w{}_FI_19", 80_412_000 + index * 37),
                        captions: vec!["a satellite image of a soccer pitch, surrounded by houses".into()],
                        tags: vec!["leisure=pitch".into(), "sport=soccer".into()],
                        facts: vec!["finland".into(), "test".into(), "2019".into(), "0.60 m a pixel".into()],
                    })
                    .collect(),
            }),
            Block::Images(ImageGrid {
                caption: "Segments over their images, with their score.".into(),
                images: (0..6u64)
                    .map(|index| Picture {
                        badge: format!("{:.2}", 0.31 - index as f64 * 0.03),
                        ..scene(index as usize % 3, 40 + index, ["a soccer pitch", "houses along a road", "a pond"][index as usize % 3])
                    })
                    .collect(),
            }),
        ],
    }
}

fn details() -> Section {
    Section {
        id: String::new(),
        title: "Small print".into(),
        lead: "What was used and what was left out.".into(),
        blocks: vec![
            Block::Paragraph(
                "Captions come from geo-tags by rule, segments from graph-based segmentation: no downloaded weights."
                    .into(),
            ),
            Block::Details {
                summary: "Hostile text is shown as it is".into(),
                blocks: vec![
                    Block::Paragraph("<script>alert('no')</script> ]]> \" & ' \u{202e}desrever".into()),
                    Block::Table(Table {
                        columns: vec![Column::text("key"), Column::number("rows")],
                        ..Table::default()
                    }),
                ],
            },
            Block::Note { level: Level::Info, text: "No external file is loaded by this page.".into() },
        ],
    }
}

/// A drawn satellite picture: 0 a pitch, 1 houses on a road, 2 a pond in a wood.
fn scene(kind: usize, seed: u64, caption: &str) -> Picture {
    const SIZE: u32 = 112;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let ground = [[112, 140, 84], [150, 142, 112], [72, 98, 62]][kind];
    let mut image = RgbImage::from_fn(SIZE, SIZE, |_, _| Rgb(ground));
    let mut fill = |x0: u32, y0: u32, width: u32, height: u32, colour: [u8; 3]| {
        for y in y0..(y0 + height).min(SIZE) {
            for x in x0..(x0 + width).min(SIZE) {
                image.put_pixel(x, y, Rgb(colour));
            }
        }
    };
    match kind {
        0 => {
            let (x, y) = (rng.random_range(14..30), rng.random_range(20..36));
            fill(0, rng.random_range(2..8), SIZE, 9, [120, 120, 122]);
            fill(x, y, 64, 44, [72, 150, 70]);
            fill(x + 31, y, 2, 44, [235, 240, 235]);
            fill(x, y, 64, 2, [235, 240, 235]);
            fill(x, y + 42, 64, 2, [235, 240, 235]);
        }
        1 => {
            let road = rng.random_range(44..60);
            fill(0, road, SIZE, 10, [122, 122, 126]);
            for index in 0..4 {
                let roof = [[168, 76, 56], [150, 90, 64], [110, 104, 104]][rng.random_range(0..3)];
                fill(6 + index * 27, road - 30 + rng.random_range(0..6), 17, 15, roof);
                fill(8 + index * 27, road + 18 + rng.random_range(0..6), 17, 15, roof);
            }
        }
        _ => {
            let (cx, cy): (i32, i32) = (rng.random_range(40..70), rng.random_range(40..70));
            let radius = rng.random_range(18..30);
            for y in 0..SIZE {
                for x in 0..SIZE {
                    let (dx, dy) = (x as i32 - cx, (y as i32 - cy) * 4 / 3);
                    if dx * dx + dy * dy < radius * radius {
                        fill(x, y, 1, 1, [58, 96, 122]);
                    }
                }
            }
        }
    }
    for pixel in image.pixels_mut() {
        let noise = rng.random_range(-9i16..=9);
        pixel.0 = pixel.0.map(|channel| (i16::from(channel) + noise).clamp(0, 255) as u8);
    }
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(image)
        .write_to(&mut bytes, ImageFormat::Jpeg)
        .expect("encoding a small picture into memory");
    Picture { bytes: bytes.into_inner(), caption: caption.into(), ..Picture::default() }
}
