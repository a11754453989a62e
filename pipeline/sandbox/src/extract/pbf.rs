//! Writes `.osm.pbf`, as little of it as the world needs: plain blobs, and the nodes of a block together.

/// What an object is besides its tags.
pub enum Body<'a> {
    /// Longitude and latitude, 1e-7 degrees.
    Node(i32, i32),
    Way(&'a [i64]),
    /// Members by kind: 0 nodes, 1 ways, 2 relations.
    #[allow(dead_code, reason = "tests of readers write relations, the world has none")]
    Relation(&'a [(u64, i64)]),
}

/// An object to be written.
pub struct Item<'a> {
    pub id: i64,
    pub tags: Vec<(&'a str, &'a str)>,
    pub body: Body<'a>,
}

fn varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

/// A field that is a number.
pub fn number(to: &mut Vec<u8>, field: u64, value: u64) {
    varint(to, field << 3);
    varint(to, value);
}

/// A field that is a text, a message or a list.
pub fn bytes(to: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(to, field << 3 | 2);
    varint(to, value.len() as u64);
    to.extend_from_slice(value);
}

fn packed(to: &mut Vec<u8>, field: u64, values: impl Iterator<Item = u64>) {
    let mut list = Vec::new();
    values.for_each(|value| varint(&mut list, value));
    bytes(to, field, &list);
}

fn running(values: impl Iterator<Item = i64>) -> impl Iterator<Item = u64> {
    let mut last = 0;
    values.map(move |value| {
        let difference = zigzag(value - last);
        last = value;
        difference
    })
}

/// A blob with its header; `deflated`: what the message becomes, where it is packed.
pub fn blob(kind: &str, message: &[u8], deflated: Option<&[u8]>) -> Vec<u8> {
    let mut blob = Vec::new();
    match deflated {
        None => bytes(&mut blob, 1, message),
        Some(deflated) => {
            number(&mut blob, 2, message.len() as u64);
            bytes(&mut blob, 3, deflated);
        }
    }
    let mut header = Vec::new();
    bytes(&mut header, 1, kind.as_bytes());
    number(&mut header, 3, blob.len() as u64);
    [&(header.len() as u32).to_be_bytes()[..], &header, &blob].concat()
}

/// The header of a file that was up to date at this diff and moment.
pub fn header(sequence: Option<u64>, timestamp: Option<i64>) -> Vec<u8> {
    let mut message = Vec::new();
    bytes(&mut message, 4, b"OsmSchema-V0.6");
    bytes(&mut message, 4, b"DenseNodes");
    if let Some(timestamp) = timestamp {
        number(&mut message, 32, timestamp as u64);
    }
    if let Some(sequence) = sequence {
        number(&mut message, 33, sequence);
    }
    message
}

/// A block of objects.
pub fn block(items: &[Item<'_>]) -> Vec<u8> {
    let mut texts = vec![""];
    let mut known = std::collections::HashMap::new();
    for text in items.iter().flat_map(|item| item.tags.iter().flat_map(|(key, value)| [*key, *value])) {
        known.entry(text).or_insert_with(|| {
            texts.push(text);
            texts.len() as u64 - 1
        });
    }
    let mut table = Vec::new();
    texts.iter().for_each(|text| bytes(&mut table, 1, text.as_bytes()));
    let mut message = Vec::new();
    bytes(&mut message, 1, &table);
    let nodes: Vec<(&Item<'_>, i64, i64)> = items
        .iter()
        .filter_map(|item| match item.body {
            Body::Node(lon, lat) => Some((item, lon.into(), lat.into())),
            _ => None,
        })
        .collect();
    if !nodes.is_empty() {
        let mut dense = Vec::new();
        packed(&mut dense, 1, running(nodes.iter().map(|(item, ..)| item.id)));
        packed(&mut dense, 8, running(nodes.iter().map(|(.., lat)| *lat)));
        packed(&mut dense, 9, running(nodes.iter().map(|(_, lon, _)| *lon)));
        let tags = nodes
            .iter()
            .flat_map(|(item, ..)| item.tags.iter().flat_map(|(key, value)| [known[key], known[value]]).chain([0]));
        packed(&mut dense, 10, tags);
        let mut group = Vec::new();
        bytes(&mut group, 2, &dense);
        bytes(&mut message, 2, &group);
    }
    for item in items {
        let mut object = Vec::new();
        number(&mut object, 1, item.id as u64);
        packed(&mut object, 2, item.tags.iter().map(|(key, _)| known[key]));
        packed(&mut object, 3, item.tags.iter().map(|(_, value)| known[value]));
        let field = match item.body {
            Body::Node(..) => continue,
            Body::Way(refs) => {
                packed(&mut object, 8, running(refs.iter().copied()));
                3
            }
            Body::Relation(members) => {
                packed(&mut object, 8, members.iter().map(|_| 0));
                packed(&mut object, 9, running(members.iter().map(|(_, id)| *id)));
                packed(&mut object, 10, members.iter().map(|(kind, _)| *kind));
                4
            }
        };
        let mut group = Vec::new();
        bytes(&mut group, field, &object);
        bytes(&mut message, 2, &group);
    }
    message
}
