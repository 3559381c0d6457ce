//! BMP: OS/2's and Windows' headers, 1 to 32 bits a pixel, run lengths, colour masks.
//!
//! Decoded here: the crates for it read what is cut off as black, or decode 16 bits and run lengths otherwise than Pillow.

use super::rules::{Decoded, all_on_white, check_size, damaged, whole};

/// The picture. Where Pillow reads a file, these are its bytes; colour masks may be any that have no gaps.
pub(super) fn decode(bytes: &[u8]) -> Decoded {
    let header = Header::read(bytes)?;
    check_size(header.width, header.height)?;
    let mut picture = match header.pixels {
        Pixels::Indexed { .. } | Pixels::RunLengths { .. } => {
            let indices = indices(bytes, &header)?;
            let colours = colours(bytes, &header);
            let rgb = indices.iter().flat_map(|&index| colours[usize::from(index)]);
            whole(header.width, header.height, rgb.collect())?
        }
        Pixels::Masked { masks, bits } => {
            let rgba = masked(bytes, &header, masks, bits)?;
            whole(header.width, header.height, all_on_white(&rgba))?
        }
    };
    if !header.top_down {
        let row = header.width * 3;
        let (mut upper, mut lower) = (0, picture.rgb.len() - row);
        while upper < lower {
            let (before, after) = picture.rgb.split_at_mut(lower);
            before[upper..upper + row].swap_with_slice(&mut after[..row]);
            (upper, lower) = (upper + row, lower - row);
        }
    }
    Ok(picture)
}

/// What the two headers of a file say.
struct Header {
    width: usize,
    height: usize,
    top_down: bool,
    pixels: Pixels,
    /// Where the palette begins, its colours, and bytes each.
    palette: (usize, usize, usize),
    /// Where the pixels begin.
    data: usize,
}

enum Pixels {
    /// Of 1, 4 or 8 bits.
    Indexed { bits: usize },
    /// Of 4 or 8 bits.
    RunLengths { bits: usize },
    /// Of 16, 24 or 32 bits: those of red, green, blue and alpha.
    Masked { masks: [u32; 4], bits: usize },
}

const FILE_HEADER: usize = 14; // bytes, of which the last four say where the pixels begin
const CORE_HEADER: usize = 12; // OS/2's, with sides of 16 bits and three bytes a colour

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, String> {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk).copied();
    found
        .map(u16::from_le_bytes)
        .ok_or_else(|| damaged("it ends within its header"))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, String> {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk).copied();
    found
        .map(u32::from_le_bytes)
        .ok_or_else(|| damaged("it ends within its header"))
}

fn size_at(bytes: &[u8], at: usize) -> Result<usize, String> {
    Ok(usize::try_from(u32_at(bytes, at)?).unwrap_or(usize::MAX))
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Header, String> {
        const RAW: u32 = 0;
        const RLE8: u32 = 1;
        const RLE4: u32 = 2;
        const BITFIELDS: u32 = 3;
        const MASKS: usize = 54; // within the header, or behind one of 40 bytes
        let length = size_at(bytes, FILE_HEADER)?;
        let core = length == CORE_HEADER;
        if !core && ![40, 52, 56, 64, 108, 124].contains(&length) {
            return Err(damaged(format!(
                "its header of {length} bytes is none that is known"
            )));
        }
        let (width, height, top_down) = if core {
            (u16_at(bytes, 18)?.into(), u16_at(bytes, 20)?.into(), false)
        } else {
            // A negative height says that the upper row comes first.
            let height = u32_at(bytes, 22)?.cast_signed();
            let rows = usize::try_from(height.unsigned_abs()).unwrap_or(usize::MAX);
            (size_at(bytes, 18)?, rows, height < 0)
        };
        let bits = usize::from(u16_at(bytes, if core { 24 } else { 28 })?);
        let (compression, colours) = if core {
            (RAW, 0)
        } else {
            (u32_at(bytes, 30)?, size_at(bytes, 46)?)
        };
        let mask = |at: usize| u32_at(bytes, MASKS + 4 * at);
        let pixels = match (compression, bits) {
            (RAW, 1 | 4 | 8) => Pixels::Indexed { bits },
            (RLE8, 8) | (RLE4, 4) => Pixels::RunLengths { bits },
            (RAW, 16) => Pixels::Masked {
                masks: [0x7c00, 0x03e0, 0x001f, 0],
                bits,
            },
            (RAW, 24 | 32) => Pixels::Masked {
                masks: [0x00ff_0000, 0xff00, 0xff, 0],
                bits,
            },
            (BITFIELDS, 16 | 24 | 32) => {
                let alpha = if bits == 32 && length >= 56 { mask(3)? } else { 0 };
                let masks = match [mask(0)?, mask(1)?, mask(2)?, alpha] {
                    [0, 0, 0, 0] => [0x00ff_0000, 0xff00, 0xff, 0xff00_0000],
                    masks => masks,
                };
                Pixels::Masked { masks, bits }
            }
            _ => {
                return Err(damaged(format!(
                    "{bits} bits a pixel with compression {compression} are not read; save it as PNG"
                )));
            }
        };
        let colour = if core { 3 } else { 4 };
        let colours = if colours == 0 && bits <= 8 {
            1 << bits
        } else {
            colours
        };
        let palette = FILE_HEADER + length;
        let data = match size_at(bytes, 10)? {
            // Some writers leave it out, or count no palette.
            0 => palette.saturating_add(colour * colours.min(1 << 16)),
            data if data == palette && bits <= 8 => data.saturating_add(colour * colours.min(1 << 16)),
            data => data,
        };
        Ok(Header {
            width,
            height,
            top_down,
            pixels,
            palette: (palette, colours, colour),
            data,
        })
    }
}

/// Of every index; black beyond the palette.
fn colours(bytes: &[u8], header: &Header) -> [[u8; 3]; 256] {
    let (start, count, size) = header.palette;
    let mut colours = [[0; 3]; 256];
    let given = bytes.get(start..).unwrap_or_default().chunks_exact(size);
    for (colour, given) in colours.iter_mut().zip(given.take(count)) {
        *colour = [given[2], given[1], given[0]];
    }
    colours
}

/// The rows of bytes, each without what fills it up to four.
fn rows<'a>(bytes: &'a [u8], header: &Header, bits: usize) -> Result<impl Iterator<Item = &'a [u8]>, String> {
    let row = (header.width * bits).div_ceil(8);
    let stride = row.next_multiple_of(4);
    let data = bytes.get(header.data..).unwrap_or_default();
    if data.len() < stride * (header.height - 1) + row {
        return Err(damaged("it is cut off"));
    }
    Ok(data
        .chunks(stride)
        .take(header.height)
        .map(move |line| &line[..row]))
}

/// Width x height indices, in the order of the file's rows.
fn indices(bytes: &[u8], header: &Header) -> Result<Vec<u8>, String> {
    match header.pixels {
        Pixels::RunLengths { bits } => run_lengths(bytes, header, bits == 4),
        Pixels::Masked { bits, .. } | Pixels::Indexed { bits } => {
            let per_byte = 8 / bits;
            let mut indices = Vec::with_capacity(header.width * header.height);
            for row in rows(bytes, header, bits)? {
                let unpacked = row.iter().flat_map(|&byte| {
                    // From the upper bits on.
                    (1..=per_byte).map(move |at| byte >> (8 - at * bits) & (0xff >> (8 - bits)))
                });
                indices.extend(unpacked.take(header.width));
            }
            Ok(indices)
        }
    }
}

/// Indices from run lengths, as Pillow goes through them: an end of a row that is full adds nothing, and runs longer than
/// a row are cut. What the file leaves out before its end marker has index 0.
fn run_lengths(bytes: &[u8], header: &Header, nibbles: bool) -> Result<Vec<u8>, String> {
    let (width, size) = (header.width, header.width * header.height);
    let mut indices: Vec<u8> = Vec::new();
    let mut at = header.data;
    let mut x = 0_usize;
    let halves = |byte: u8| [byte >> 4, byte & 15];
    while indices.len() < size {
        let Some(&[count, value]) = bytes.get(at..).and_then(<[u8]>::first_chunk) else {
            return Err(damaged("it is cut off"));
        };
        at += 2;
        match (count, value) {
            (0, 0) => {
                indices.resize(indices.len().next_multiple_of(width), 0);
                x = 0;
            }
            (0, 1) => indices.resize(size, 0),
            (0, 2) => {
                let Some(&[right, up]) = bytes.get(at..).and_then(<[u8]>::first_chunk) else {
                    return Err(damaged("it is cut off"));
                };
                at += 2;
                let skipped = usize::from(right) + usize::from(up) * width;
                indices.resize(size.min(indices.len() + skipped), 0);
                x = indices.len() % width;
            }
            (0, count) => {
                let length = usize::from(count).min(size - indices.len());
                let packed = if nibbles { length.div_ceil(2) } else { length };
                let Some(given) = bytes.get(at..at + packed) else {
                    return Err(damaged("it is cut off"));
                };
                if nibbles {
                    indices.extend(given.iter().flat_map(|&byte| halves(byte)).take(length));
                } else {
                    indices.extend(given);
                }
                x += usize::from(count);
                at = (at + packed).next_multiple_of(2);
            }
            (count, value) => {
                let length = usize::from(count).min(width.saturating_sub(x));
                let pair = if nibbles { halves(value) } else { [value; 2] };
                indices.extend(pair.into_iter().cycle().take(length));
                x += length;
            }
        }
    }
    indices.truncate(size);
    Ok(indices)
}

/// Width x height pixels of red, green, blue and alpha, in the order of the file's rows.
fn masked(bytes: &[u8], header: &Header, masks: [u32; 4], bits: usize) -> Result<Vec<u8>, String> {
    let mut channels = [(0, 0); 4];
    for (channel, mask) in channels.iter_mut().zip(masks) {
        let shift = mask.trailing_zeros() % 32;
        let largest = mask >> shift;
        if largest & largest.wrapping_add(1) != 0 {
            return Err(damaged("a colour mask of it has gaps"));
        }
        *channel = (shift, u64::from(largest));
    }
    let mut rgba = Vec::with_capacity(header.width * header.height * 4);
    for row in rows(bytes, header, bits)? {
        for pixel in row.chunks_exact(bits / 8) {
            let mut word = [0; 4];
            word[..pixel.len()].copy_from_slice(pixel);
            let word = u32::from_le_bytes(word);
            rgba.extend(channels.map(|(shift, largest)| {
                let value = u64::from(word >> shift) & largest;
                // Rounded down, as Pillow does. Without a mask for it there is no transparency, nor a colour.
                let full = (value * 255).checked_div(largest);
                full.and_then(|full| u8::try_from(full).ok()).unwrap_or(0)
            }));
            if masks[3] == 0
                && let Some(alpha) = rgba.last_mut()
            {
                *alpha = 255;
            }
        }
    }
    Ok(rgba)
}
