//! Curves of trainings as TensorBoard reads them: TFRecords of `Event` messages, of which only numbers by name are written.

use crc_fast::{CrcAlgorithm, checksum};

/// Numbers at one moment of a training.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    /// When it was, in whole steps of some length.
    pub step: u64,
    /// Seconds since 1970; only differences matter.
    pub seconds: f64,
    /// By the names that are shown; `a/b` is shown as `b` in a group `a`.
    pub numbers: Vec<(String, f64)>,
}

/// A file of events.
pub fn event_file(moments: &[Moment]) -> Vec<u8> {
    let mut file = Vec::new();
    let begin = moments.first().map_or(0.0, |moment| moment.seconds);
    // the version that readers ask for
    record(&mut file, &[&double(1, begin)[..], &bytes(3, b"brain.Event:2")].concat());
    for moment in moments {
        let values = moment.numbers.iter().map(|(name, number)| {
            let value = [&bytes(1, name.as_bytes())[..], &float(2, *number as f32)].concat();
            bytes(1, &value)
        });
        let summary = values.collect::<Vec<_>>().concat();
        let event = [&double(1, moment.seconds)[..], &integer(2, moment.step), &bytes(5, &summary)].concat();
        record(&mut file, &event);
    }
    file
}

/// Length, its checksum, the message, its checksum.
fn record(file: &mut Vec<u8>, message: &[u8]) {
    let length = (message.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked(&length).to_le_bytes());
    file.extend(message);
    file.extend(masked(message).to_le_bytes());
}

/// CRC-32C, turned and shifted as TFRecords want it.
fn masked(bytes: &[u8]) -> u32 {
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32;
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

// fields of protocol buffers: their number and kind, then their value

fn varint(mut number: u64) -> Vec<u8> {
    let mut written = Vec::new();
    while number >= 0x80 {
        written.push(number as u8 | 0x80);
        number >>= 7;
    }
    written.push(number as u8);
    written
}

fn field(number: u64, kind: u64) -> Vec<u8> {
    varint(number << 3 | kind)
}

fn integer(number: u64, value: u64) -> Vec<u8> {
    [field(number, 0), varint(value)].concat()
}

fn double(number: u64, value: f64) -> Vec<u8> {
    [&field(number, 1)[..], &value.to_le_bytes()].concat()
}

fn bytes(number: u64, value: &[u8]) -> Vec<u8> {
    [&field(number, 2)[..], &varint(value.len() as u64), value].concat()
}

fn float(number: u64, value: f32) -> Vec<u8> {
    [&field(number, 5)[..], &value.to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As TensorFlow's `TFRecordWriter` and `Event` write it.
    #[test]
    fn the_first_record_is_the_version() {
        let file = event_file(&[]);
        let message = b"\x09\0\0\0\0\0\0\0\0\x1a\x0dbrain.Event:2";
        assert_eq!(file[..8], (message.len() as u64).to_le_bytes());
        assert_eq!(&file[12..12 + message.len()], message);
        assert_eq!(file.len(), 16 + message.len());

        assert_eq!(masked(b""), 0xA282_EAD8);
    }

    #[test]
    fn numbers_of_any_size_are_written_in_groups_of_seven_bits() {
        assert_eq!((varint(0), varint(127), varint(128)), (vec![0], vec![127], vec![0x80, 1]));
        assert_eq!(varint(u64::MAX).len(), 10);
    }
}
