//! COCO's compressed counts (`rleToString`, `rleFrString` of pycocotools' `maskApi.c`).
//!
//! Each length is a signed number, from the fourth on relative to the one two places before, in
//! groups of five bits, least significant first; bit 6 says that more follow, and 48 is added to make
//! it printable.

use super::Rle;
use crate::PixelError;

impl Rle {
    /// The `counts` string of COCO's JSON.
    pub fn to_coco_string(&self) -> String {
        let mut text = String::with_capacity(2 * self.counts.len());
        for (index, &count) in self.counts.iter().enumerate() {
            let mut value = i64::from(count) - self.reference(index);
            loop {
                let group = (value & 0x1f) as u8;
                value >>= 5;
                let sign_bit = group & 0x10 != 0;
                let more = value != if sign_bit { -1 } else { 0 };
                text.push(char::from(48 + group + if more { 0x20 } else { 0 }));
                if !more {
                    break;
                }
            }
        }
        text
    }

    /// Reads the `counts` string of COCO's JSON for a mask of `height` x `width` pixels.
    ///
    /// # Errors
    /// [`PixelError::Broken`] for characters outside the alphabet, numbers that do not end or do not
    /// fit, and lengths that do not add up to `height * width`; else as [`Rle::new`].
    pub fn from_coco_string(text: &str, height: u32, width: u32) -> Result<Self, PixelError> {
        /// Seven groups hold 35 bits: any difference of two 32-bit lengths.
        const MAX_GROUPS: u32 = 7;
        let mut rle = Self { height, width, counts: Vec::with_capacity(text.len() / 2) };
        let mut bytes = text.bytes().enumerate();
        while let Some((start, first)) = bytes.next() {
            let fault = |what| PixelError::broken(format!("mask string, number at byte {start}: {what}"));
            let (mut value, mut groups, mut byte) = (0i64, 0, first);
            loop {
                let group =
                    byte.checked_sub(48).filter(|&group| group < 64).ok_or_else(|| fault("not a COCO character"))?;
                if groups == MAX_GROUPS {
                    return Err(fault("too long"));
                }
                value |= i64::from(group & 0x1f) << (5 * groups);
                groups += 1;
                if group & 0x20 == 0 {
                    if group & 0x10 != 0 {
                        value |= -1 << (5 * groups);
                    }
                    break;
                }
                byte = bytes.next().ok_or_else(|| fault("does not end"))?.1;
            }
            let count =
                u32::try_from(value + rle.reference(rle.counts.len())).map_err(|_| fault("negative or too large"))?;
            rle.counts.push(count);
        }
        Self::new(height, width, rle.counts)
    }

    /// What the length at `index` is written relative to.
    fn reference(&self, index: usize) -> i64 {
        if index > 2 { i64::from(self.counts[index - 2]) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_go_round() {
        for counts in [vec![0, 600], vec![600], vec![1, 2, 3, 4, 590], vec![17, 500, 31, 1, 51]] {
            let rle = Rle::new(20, 30, counts).unwrap();
            let text = rle.to_coco_string();
            assert_eq!(Rle::from_coco_string(&text, 20, 30).unwrap(), rle);
        }
    }

    #[test]
    fn hostile_strings_are_refused() {
        let refused = |text: &str| match Rle::from_coco_string(text, 2, 3) {
            Err(PixelError::Broken { what }) => what,
            other => panic!("{text:?} gave {other:?}"),
        };
        assert!(refused("").contains("add up to 0"));
        assert!(refused("7").contains("add up to 7"));
        assert!(refused("\u{7f}").contains("not a COCO character"));
        assert!(refused("é").contains("not a COCO character"));
        assert!(refused("/").contains("not a COCO character"));
        assert!(refused("V").contains("does not end"));
        assert!(refused("O").contains("negative"));
        assert!(refused("oooooooooo0").contains("too long"));
        assert!(refused("ooooooO").contains("negative or too large"));
        assert!(matches!(Rle::from_coco_string("0", 0, 3), Err(PixelError::Shape { .. })));
    }
}
