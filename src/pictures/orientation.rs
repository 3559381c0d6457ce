//! Which way a picture is up, as its EXIF block or XMP packet says, and turning it so.

use crate::pictures::picture::Picture;

/// The orientation (1 to 8) that Pillow's `exif_transpose` would go by: the EXIF tag 0x0112, else the one
/// of an XMP packet; 1, upright, where neither says anything readable.
pub(super) fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> u8 {
    exif.and_then(from_exif)
        .or_else(|| xmp.and_then(from_xmp))
        .filter(|orientation| (1..=8).contains(orientation))
        .unwrap_or(1)
}

/// The tag in the first image directory of a TIFF block, with or without `Exif\0\0` before it.
fn from_exif(block: &[u8]) -> Option<u8> {
    const ORIENTATION: u16 = 0x0112;
    const SHORT: u16 = 3;
    let tiff = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    let little = match tiff.get(..2)? {
        b"II" => true,
        b"MM" => false,
        _ => return None,
    };
    let u16_at = |at: usize| {
        let bytes = tiff.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        })
    };
    let u32_at = |at: usize| {
        let bytes = tiff.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if little {
            u32::from_le_bytes(bytes)
        } else {
            u32::from_be_bytes(bytes)
        })
    };
    let directory = usize::try_from(u32_at(4)?).ok()?;
    let entries = directory.checked_add(2)?;
    (0..usize::from(u16_at(directory)?))
        .map_while(|index| entries.checked_add(index * 12))
        .find(|&entry| u16_at(entry) == Some(ORIENTATION))
        .filter(|entry| u16_at(entry + 2) == Some(SHORT))
        .and_then(|entry| u8::try_from(u16_at(entry + 8)?).ok())
}

/// The digit behind `tiff:Orientation="` or `tiff:Orientation>`.
fn from_xmp(packet: &[u8]) -> Option<u8> {
    const NAME: &[u8] = b"tiff:Orientation";
    packet.windows(NAME.len()).enumerate().find_map(|(at, window)| {
        let rest = (window == NAME).then(|| &packet[at + NAME.len()..])?;
        let rest = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
        rest.first()
            .filter(|digit| digit.is_ascii_digit())
            .map(|digit| digit - b'0')
    })
}

/// The picture turned and mirrored so that it is upright.
pub(super) fn upright(picture: Picture, orientation: u8) -> Picture {
    let (width, height) = (picture.width, picture.height);
    // From a position in the upright picture, of which `right` and `bottom` are the last, to the stored one.
    let stored: fn(usize, usize, usize, usize) -> (usize, usize) = match orientation {
        2 => |x, y, right, _| (right - x, y),
        3 => |x, y, right, bottom| (right - x, bottom - y),
        4 => |x, y, _, bottom| (x, bottom - y),
        5 => |x, y, _, _| (y, x),
        6 => |x, y, right, _| (y, right - x),
        7 => |x, y, right, bottom| (bottom - y, right - x),
        8 => |x, y, _, bottom| (bottom - y, x),
        _ => return picture,
    };
    let (new_width, new_height) = if orientation >= 5 {
        (height, width)
    } else {
        (width, height)
    };
    let mut rgb = Vec::with_capacity(picture.rgb.len());
    for y in 0..new_height {
        for x in 0..new_width {
            let (stored_x, stored_y) = stored(x, y, new_width - 1, new_height - 1);
            let at = (stored_y * width + stored_x) * 3;
            rgb.extend_from_slice(&picture.rgb[at..at + 3]);
        }
    }
    Picture {
        width: new_width,
        height: new_height,
        rgb,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(little: bool, kind: u16, value: u16) -> Vec<u8> {
        let u16_bytes = |value: u16| {
            if little {
                value.to_le_bytes()
            } else {
                value.to_be_bytes()
            }
        };
        let u32_bytes = |value: u32| {
            if little {
                value.to_le_bytes()
            } else {
                value.to_be_bytes()
            }
        };
        let mut block = b"Exif\0\0".to_vec();
        block.extend(if little { b"II" } else { b"MM" });
        block.extend(u16_bytes(42));
        block.extend(u32_bytes(8));
        block.extend(u16_bytes(1));
        block.extend(u16_bytes(0x0112));
        block.extend(u16_bytes(kind));
        block.extend(u32_bytes(1));
        block.extend(u16_bytes(value));
        block.extend([0; 6]);
        block
    }

    #[test]
    fn both_byte_orders_are_read() {
        for little in [false, true] {
            assert_eq!(orientation(Some(&block(little, 3, 6)), None), 6);
            assert_eq!(orientation(Some(&block(little, 3, 6)[6..]), None), 6);
        }
    }

    #[test]
    fn what_is_no_orientation_is_upright() {
        assert_eq!(orientation(None, None), 1);
        assert_eq!(orientation(Some(&block(true, 3, 9)), None), 1);
        assert_eq!(orientation(Some(&block(true, 3, 0)), None), 1);
        assert_eq!(orientation(Some(b"Exif\0\0MM\0*\xff\xff\xff\xff"), None), 1);
        for end in 0..block(false, 3, 6).len() - 6 {
            assert_eq!(orientation(Some(&block(false, 3, 6)[..end]), None), 1, "{end}");
        }
    }

    #[test]
    fn xmp_speaks_where_exif_is_silent() {
        assert_eq!(orientation(None, Some(br#"<rdf tiff:Orientation="8"/>"#)), 8);
        assert_eq!(
            orientation(None, Some(b"<tiff:Orientation>3</tiff:Orientation>")),
            3
        );
        assert_eq!(
            orientation(Some(&block(true, 3, 6)), Some(b"tiff:Orientation>3")),
            6
        );
        assert_eq!(orientation(None, Some(b"tiff:Orientation>")), 1);
    }

    /// Two rows of three pixels, told apart by their red.
    #[test]
    fn each_of_the_eight_is_turned_upright() {
        let reds = |picture: &Picture| picture.rgb.iter().step_by(3).copied().collect::<Vec<u8>>();
        let stored = Picture {
            width: 3,
            height: 2,
            rgb: (1..=6).flat_map(|red| [red, 0, 0]).collect(),
        };
        for (orientation, width, expected) in [
            (1, 3, [1, 2, 3, 4, 5, 6]),
            (2, 3, [3, 2, 1, 6, 5, 4]),
            (3, 3, [6, 5, 4, 3, 2, 1]),
            (4, 3, [4, 5, 6, 1, 2, 3]),
            (5, 2, [1, 4, 2, 5, 3, 6]),
            (6, 2, [4, 1, 5, 2, 6, 3]),
            (7, 2, [6, 3, 5, 2, 4, 1]),
            (8, 2, [3, 6, 2, 5, 1, 4]),
        ] {
            let turned = upright(stored.clone(), orientation);
            assert_eq!(turned.width, width, "{orientation}");
            assert_eq!(reds(&turned), expected, "{orientation}");
        }
    }
}
