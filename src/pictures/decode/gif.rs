//! GIF, by the crate `gif`.

use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, MemoryLimit};

use super::rules::{Decoded, MAX_PIXELS, check_size, damaged, whole};

const WHITE: [u8; 3] = [255; 3];

/// The first picture on its canvas, which grows where the picture is larger. What the picture does not cover has the
/// transparent colour, or the first of the palette.
pub(super) fn decode(bytes: &[u8]) -> Decoded {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    let limit = NonZeroU64::new(MAX_PIXELS as u64).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes);
    options.set_memory_limit(limit);
    let mut decoder = options.read_info(bytes).map_err(damaged)?;
    let canvas = [decoder.width(), decoder.height()].map(usize::from);
    let frame = decoder.next_frame_info().map_err(damaged)?;
    let frame = frame.ok_or_else(|| damaged("it has no picture"))?;
    let [left, top, columns, rows] = [frame.left, frame.top, frame.width, frame.height].map(usize::from);
    let transparent = frame.transparent;
    let width = canvas[0].max(left + columns);
    let height = canvas[1].max(top + rows);
    check_size(width, height)?;
    check_size(columns, rows)?;
    let mut indices = vec![0; columns * rows];
    decoder.read_into_buffer(&mut indices).map_err(damaged)?;

    let colours = colours(decoder.palette().map_err(damaged)?, transparent);
    let around = colours[usize::from(transparent.unwrap_or(0))];
    let mut rgb = around.repeat(width * height);
    for (row, indices) in indices.chunks_exact(columns).enumerate() {
        let start = ((top + row) * width + left) * 3;
        let (pixels, _) = rgb[start..start + columns * 3].as_chunks_mut::<3>();
        for (pixel, &index) in pixels.iter_mut().zip(indices) {
            *pixel = colours[usize::from(index)];
        }
    }
    whole(width, height, rgb)
}

/// Of every index: beyond the palette black, and white where it is transparent.
fn colours(palette: &[u8], transparent: Option<u8>) -> [[u8; 3]; 256] {
    let mut colours = [[0; 3]; 256];
    let (given, _) = palette.as_chunks::<3>();
    for (colour, given) in colours.iter_mut().zip(given) {
        *colour = *given;
    }
    if let Some(index) = transparent {
        colours[usize::from(index)] = WHITE;
    }
    colours
}
