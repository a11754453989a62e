//! The page as a browser gets it: well-formed, closed in itself, and harmless whatever it is fed.

use quick_xml::Reader;
use quick_xml::events::Event;
use report::*;

/// Text that tries to leave every place it can stand in.
const HOSTILE: &str =
    "<script>alert(1)</script>\"'>]]> &amp; </style></title><img src=x onerror=alert(2)> \0\u{1b}\u{202e}javascript:";

fn page(blocks: Vec<Block>) -> String {
    render(&Report {
        title: "t".into(),
        sections: vec![Section { title: "s".into(), blocks, ..Section::default() }],
        ..Report::default()
    })
}

/// The part of the page that blocks write.
fn main_of(page: &str) -> &str {
    let start = page.find("<main>").expect("main");
    &page[start..page.find("</main>").expect("end of main")]
}

fn picture(bytes: &[u8], text: &str) -> Picture {
    Picture {
        bytes: bytes.to_vec(),
        caption: text.into(),
        mark: Mark::Correct,
        badge: text.into(),
        swatches: vec![Swatch { colour: [1, 2, 3], text: text.into() }],
    }
}

/// Every block, with `text` wherever text can stand and `value` wherever a number can.
fn every_block(text: &str, value: f64) -> Vec<Block> {
    let t = || text.to_owned();
    let series = |points| Series { name: t(), points };
    let panel = |query| RetrievalPanel {
        label: t(),
        query,
        hits: vec![
            Hit { rank: 1, score: value, mark: Mark::Correct, subject: Subject::Text(t()) },
            Hit { rank: 2, score: value, mark: Mark::Wrong, subject: Subject::Picture(picture(b"\xff\xd8\xff", text)) },
        ],
        true_rank: Some(u64::MAX),
    };
    let blocks = vec![
        Block::Paragraph(t()),
        Block::Note { level: Level::Error, text: t() },
        Block::Code { language: t(), text: t() },
        Block::Table(Table {
            caption: t(),
            columns: vec![Column::text(text).unit(text), Column::number(text).best(Best::Lowest)],
            rows: vec![vec![text.into(), value.into()], vec![Cell::Empty], vec![text.into(), 1.0.into(), 2.0.into()]],
        }),
        Block::Heatmap(Heatmap {
            caption: t(),
            row_title: t(),
            column_title: t(),
            row_labels: vec![t(), t()],
            column_labels: vec![t(), t()],
            values: vec![vec![value, 1.0], vec![]],
            unit: t(),
            decimals: None,
        }),
        Block::LineChart(LineChart {
            caption: t(),
            x_label: t(),
            y_label: t(),
            x_log: false,
            y_log: true,
            best: Some(Best::Highest),
            series: vec![series(vec![(1.0, value), (value, 2.0), (3.0, 4.0)]), series(vec![])],
        }),
        Block::BarChart(BarChart {
            caption: t(),
            unit: t(),
            decimals: Some(255),
            part_names: vec![t()],
            bars: vec![Bar { label: t(), parts: vec![value, 1.0] }, Bar { label: t(), parts: vec![] }],
        }),
        Block::Histogram(Histogram {
            caption: t(),
            x_label: t(),
            y_label: t(),
            edges: vec![0.0, value, 2.0],
            counts: vec![1, u64::MAX],
        }),
        Block::Scatter(Scatter {
            caption: t(),
            x_label: t(),
            y_label: t(),
            clusters: vec![Cluster { name: t(), points: vec![(value, 1.0, t()), (1.0, 2.0, t())] }],
        }),
        Block::Timeline(Timeline {
            caption: t(),
            spans: vec![
                Span { stage: t(), start_seconds: value, duration_seconds: 1.0, rows: u64::MAX },
                Span { stage: t(), start_seconds: 0.0, duration_seconds: 1.0, rows: u64::MAX },
            ],
        }),
        Block::TagCloud(TagCloud {
            caption: t(),
            groups: vec![TagGroup { name: t(), tags: vec![(t(), value), (t(), 2.0)] }],
        }),
        Block::Images(ImageGrid {
            caption: t(),
            images: vec![picture(b"\x89PNG", text), picture(text.as_bytes(), text)],
        }),
        Block::Retrieval(Retrieval {
            caption: t(),
            panels: vec![panel(Subject::Text(t())), panel(Subject::Picture(picture(b"", text)))],
        }),
        Block::SideBySide(SideBySide {
            caption: t(),
            rows: vec![
                Told {
                    picture: picture(b"\xff\xd8\xff", text),
                    texts: vec![Telling { label: t(), text: t(), facts: vec![t(), t()] }, Telling::default()],
                },
                Told::default(),
            ],
        }),
        Block::SideBySide(SideBySide { caption: t(), rows: vec![] }),
        Block::Found(FoundGrid {
            caption: t(),
            query: Subject::Picture(picture(b"\xff\xd8\xff", text)),
            cards: vec![
                FoundCard {
                    rank: u64::MAX,
                    score: value,
                    picture: text.as_bytes().to_vec(),
                    id: t(),
                    captions: vec![t(), t()],
                    tags: vec![t()],
                    facts: vec![t(), t()],
                },
                FoundCard::default(),
            ],
        }),
        Block::Found(FoundGrid { caption: t(), query: Subject::Text(t()), cards: vec![] }),
        Block::Flow(Flow {
            caption: t(),
            stages: vec![
                FlowStage { name: t(), computed: u64::MAX, copied: 1, errors: 1 },
                FlowStage { name: "b".into(), ..FlowStage::default() },
            ],
            edges: vec![(t(), "b".into()), ("b".into(), t()), ("nowhere".into(), t())],
        }),
    ];
    vec![Block::Row(blocks.clone()), Block::Details { summary: t(), blocks }]
}

/// Parses the page as XML, after closing the few elements that HTML leaves open and emptying style and script.
fn assert_well_formed(page: &str) {
    let mut xml = String::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("doctype");
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("every tag ends") + 1;
        let tag = &rest[start..end];
        xml += &rest[..start];
        let name = tag.trim_start_matches('<').split([' ', '>']).next().expect("name");
        let is_void = matches!(name, "meta" | "img");
        xml += &if is_void { format!("{}/>", &tag[..tag.len() - 1]) } else { tag.to_owned() };
        rest = &rest[end..];
        if matches!(name, "style" | "script") {
            rest = &rest[rest.find(&format!("</{name}>")).expect("raw text ends")..];
        }
    }
    xml += rest;
    let mut reader = Reader::from_str(&xml);
    reader.config_mut().check_end_names = true;
    let mut depth = 0;
    loop {
        match reader.read_event().unwrap_or_else(|error| panic!("{error} at {}", reader.error_position())) {
            Event::Start(tag) => {
                depth += 1;
                tag.attributes().for_each(|attribute| {
                    attribute.unwrap_or_else(|error| panic!("{error} in {:?}", tag.name()));
                });
            }
            Event::End(_) => depth -= 1,
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0);
}

fn assert_closed_in_itself(page: &str) {
    for tag in page.split('<').skip(1) {
        let tag = tag.split('>').next().unwrap_or_default();
        for attribute in [" src=\"", " href=\""] {
            if let Some(at) = tag.find(attribute) {
                let address = &tag[at + attribute.len()..];
                assert!(address.starts_with("data:image/") || address.starts_with('#'), "{tag}");
            }
        }
        assert!(!["link", "iframe", "object", "base"].contains(&tag.split(' ').next().unwrap_or_default()), "{tag}");
    }
    for loading in ["http://", "https://", "@import"] {
        assert!(!page.contains(loading), "{loading}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn a_page_of_every_block_is_well_formed_and_closed_in_itself() {
    let page = page(every_block("plain", 1.5));
    assert_well_formed(&page);
    assert_closed_in_itself(&page);
}

#[test]
fn hostile_text_stays_text() {
    let mut report = Report {
        title: HOSTILE.into(),
        subtitle: HOSTILE.into(),
        generated_at: HOSTILE.into(),
        facts: vec![Fact::new(HOSTILE, HOSTILE)],
        sections: vec![
            Section {
                id: HOSTILE.into(),
                title: HOSTILE.into(),
                lead: HOSTILE.into(),
                blocks: every_block(HOSTILE, 1.0)
            };
            2
        ],
    };
    let page = render(&report);
    assert_well_formed(&page);
    assert_closed_in_itself(&page);
    assert_eq!(page.matches("<script").count(), 1, "only our own");
    assert_eq!(page.matches("</style").count(), 1);
    assert!(!page.contains("<img src=x") && !page.contains('\0') && !page.contains('\u{1b}'));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;"));
    // The same text as a picture is no picture, as an anchor a plain word.
    assert!(page.contains("no picture") && page.contains("id=\"script-alert-1-script"));

    report.sections[0].blocks = every_block(&HOSTILE.repeat(100), 1.0);
    assert_well_formed(&render(&report));
}

#[test]
fn numbers_that_are_none_are_shown_as_a_dash() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE, -1.0, 0.0] {
        let page = page(every_block("plain", value));
        assert_well_formed(&page);
        let blocks = main_of(&page);
        for word in ["NaN", "inf", "Infinity"] {
            assert!(!blocks.contains(word), "{value} is shown as {word}");
        }
        assert!(blocks.contains("<td class=\"missing\">–</td>"));
    }
    let table = Table { columns: vec![Column::number("x")], rows: vec![vec![f64::NAN.into()]], ..Table::default() };
    assert!(page(vec![Block::Table(table)]).contains("<td class=\"right\">–</td>"));
}

#[test]
fn empty_blocks_say_so() {
    let blocks = [
        Block::Heatmap(Heatmap::default()),
        Block::LineChart(LineChart::default()),
        Block::LineChart(LineChart {
            y_log: true,
            series: vec![Series { name: "a".into(), points: vec![(1.0, -1.0)] }],
            ..LineChart::default()
        }),
        Block::BarChart(BarChart::default()),
        Block::Histogram(Histogram::default()),
        Block::Scatter(Scatter::default()),
        Block::Timeline(Timeline::default()),
        Block::TagCloud(TagCloud::default()),
        Block::Images(ImageGrid::default()),
        Block::Retrieval(Retrieval::default()),
        Block::Flow(Flow::default()),
    ];
    for block in blocks {
        let page = page(vec![block.clone()]);
        assert_well_formed(&page);
        assert!(main_of(&page).contains("<p class=\"nothing\">no data</p>"), "{block:?}");
    }
    let page = page(vec![Block::Table(Table::default())]);
    assert_well_formed(&page);
    assert!(page.contains("no rows"));
    assert_well_formed(&render(&Report::default()));
}

#[test]
fn tables_mark_the_best_of_a_column() {
    let columns = vec![
        Column::text("method"),
        Column::number("mR").unit("%").decimals(1).best(Best::Highest),
        Column::number("rank").best(Best::Lowest),
    ];
    let rows = vec![
        vec!["a".into(), 36.84.into(), 12usize.into()],
        vec!["b".into(), 38.41.into(), 1234usize.into()],
        vec!["c".into(), f64::NAN.into(), Cell::Empty],
    ];
    let page = page(vec![Block::Table(Table { caption: "c".into(), columns, rows })]);
    let row = |html: &str| assert!(page.contains(html), "{html}\nnot in\n{}", main_of(&page));
    row("<th scope=\"col\" class=\"right\"><span dir=\"auto\">mR</span> <span class=\"unit\">%</span></th>");
    row(
        "<td class=\"right\" data-value=\"36.84\">36.8</td><td class=\"right\" data-value=\"12\"><strong class=\"best\" title=\"best of the column\">12</strong></td>",
    );
    row(
        "<strong class=\"best\" title=\"best of the column\">38.4</strong></td><td class=\"right\" data-value=\"1234\">1,234</td>",
    );
    row("<td class=\"right\">–</td><td class=\"right\">–</td></tr>");
}

#[test]
fn heatmap_cells_carry_their_share_of_the_range() {
    let labels = || vec!["a".to_owned(), "b".to_owned()];
    let heatmap = Heatmap {
        row_labels: labels(),
        column_labels: labels(),
        values: vec![vec![0.0, 25.0], vec![100.0, f64::NAN]],
        decimals: Some(1),
        ..Heatmap::default()
    };
    let page = page(vec![Block::Heatmap(heatmap)]);
    for cell in [
        "<td class=\"pale\" style=\"--share:0%\">0.0</td><td class=\"pale\" style=\"--share:25%\">25.0</td>",
        "<td class=\"full\" style=\"--share:100%\">100.0</td><td class=\"missing\">–</td>",
    ] {
        assert!(page.contains(cell), "{cell}\nnot in\n{}", main_of(&page));
    }
}

#[test]
fn charts_draw_what_they_are_given() {
    let series = vec![Series { name: "mR".into(), points: vec![(0.0, 0.0), (5.0, 10.0), (10.0, 5.0)] }];
    let chart = page(vec![Block::LineChart(LineChart { series, best: Some(Best::Highest), ..LineChart::default() })]);
    assert!(chart.contains("<path d=\"M48.0 218.0L253.0 28.0L458.0 123.0\">"), "{}", main_of(&chart));
    assert!(chart.contains("<circle class=\"best\" cx=\"253\" cy=\"28\" r=\"6\">"));

    let bars = vec![Bar::new("a", 10.0), Bar::new("b", 2.5), Bar::new("c", -3.0)];
    let bars = page(vec![Block::BarChart(BarChart { bars, ..BarChart::default() })]);
    for part in ["width:100.00%", "width:25.00%", "width:0.00%", "−3"] {
        assert!(bars.contains(part), "{part}");
    }

    let picture = page(vec![Block::Images(ImageGrid {
        images: vec![picture(b"\xff\xd8\xff", "a pond")],
        ..ImageGrid::default()
    })]);
    assert!(picture.contains("<img src=\"data:image/jpeg;base64,/9j/\" alt=\"a pond\" loading=\"lazy\">"));
    assert!(picture.contains("aria-label=\"correct\""));
}

#[test]
fn nesting_is_bounded_and_output_repeats() {
    let mut block = Block::Paragraph("inmost".into());
    for _ in 0..50 {
        block = Block::Details { summary: "more".into(), blocks: vec![block] };
    }
    let page = page(vec![block]);
    assert_well_formed(&page);
    assert!(page.contains("nested too deeply") && !page.contains("inmost"));

    let report =
        Report { sections: vec![Section { blocks: every_block("x", 2.0), ..Section::default() }], ..Report::default() };
    assert_eq!(render(&report), render(&report));
}

#[test]
fn a_report_survives_json() {
    let report =
        Report { sections: vec![Section { blocks: every_block("x", 2.0), ..Section::default() }], ..Report::default() };
    let json = serde_json::to_string(&report).expect("finite numbers");
    assert_eq!(serde_json::from_str::<Report>(&json).expect("our own output"), report);
}
