//! WebP, by the crate `image-webp`.
//!
//! The crate decodes still pictures: of an animation the first frame is handed to it as one, since it goes through frames
//! without holding a picture's own size against the frame's (image-webp 0.2.4 panics there).

use std::io::Cursor;

use image_webp::WebPDecoder;

use super::rules::{Decoded, all_on_white, check_size, damaged, whole};
use crate::pictures::orientation::{orientation, upright};

const FILE_HEADER: usize = 12; // `RIFF`, a length and `WEBP`
const FRAME_HEADER: usize = 16; // place, sides and duration, before the chunks of a frame's picture

/// The picture, or the first one of an animation on its canvas: what of that no frame covers is transparent, or black
/// where the file has no transparency.
pub(super) fn decode(bytes: &[u8]) -> Decoded {
    // The length of all that follows it. The decoder would not miss metadata at the end.
    let (head, chunks) = bytes
        .split_first_chunk::<FILE_HEADER>()
        .ok_or_else(|| damaged("it is cut off"))?;
    let length = le(&head[4..8]);
    if bytes.len() - 8 < length {
        return Err(damaged("it is cut off"));
    }
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let [width, height] = [width, height].map(|side| usize::try_from(side).unwrap_or(usize::MAX));
    check_size(width, height)?;
    check_lossy_sizes(chunks)?;
    // A chunk whose length lies is not to take more memory than the file has.
    decoder.set_memory_limit(bytes.len());
    let (samples, alpha) = if decoder.is_animated() {
        (first_frame(chunks, width, height)?, decoder.has_alpha())
    } else {
        samples(&mut decoder)?
    };
    let rgb = if alpha {
        all_on_white(&samples)
    } else if decoder.is_animated() {
        without_alpha(&samples)
    } else {
        samples
    };
    let picture = whole(width, height, rgb)?;
    // What is wrong with metadata does not change the pixels.
    let exif = decoder.exif_metadata().ok().flatten();
    let xmp = decoder.xmp_metadata().ok().flatten();
    Ok(upright(picture, orientation(exif.as_deref(), xmp.as_deref())))
}

/// Bytes of a still picture, and whether they are of red, green, blue and alpha.
fn samples(decoder: &mut WebPDecoder<Cursor<&[u8]>>) -> Result<(Vec<u8>, bool), String> {
    let size = decoder
        .output_buffer_size()
        .ok_or_else(|| damaged("its rows are too long"))?;
    let mut samples = vec![0; size];
    decoder.read_image(&mut samples).map_err(damaged)?;
    Ok((samples, decoder.has_alpha()))
}

/// The number that up to four bytes are, the lowest first.
fn le(bytes: &[u8]) -> usize {
    let parts = bytes.iter().rev().map(|&byte| usize::from(byte));
    parts.fold(0, |number, byte| number << 8 | byte)
}

/// Name and body of every chunk; a length beyond the end is cut.
fn each(mut chunks: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = chunks.split_first_chunk::<8>()?;
        let [name @ .., _, _, _, _] = *head;
        let length = le(&head[4..]);
        let (body, after) = rest.split_at(length.min(rest.len()));
        chunks = after.get(length % 2..).unwrap_or_default();
        Some((name, body))
    })
}

/// The decoder takes memory for a lossy picture by the picture's own header, before it holds that against the canvas.
fn check_lossy_sizes(chunks: &[u8]) -> Result<(), String> {
    const START_CODE: &[u8] = &[0x9d, 0x01, 0x2a];
    for (name, body) in each(chunks) {
        if name == *b"ANMF" {
            check_lossy_sizes(body.get(FRAME_HEADER..).unwrap_or_default())?;
        } else if let Some(header) = body.first_chunk::<10>()
            && &header[3..6] == START_CODE
        {
            check_size(le(&header[6..8]) & 0x3fff, le(&header[8..]) & 0x3fff)?;
        }
    }
    Ok(())
}

/// The canvas of an animation with its first frame: width x height pixels of red, green, blue and alpha.
fn first_frame(chunks: &[u8], width: usize, height: usize) -> Result<Vec<u8>, String> {
    let frame = each(chunks).find_map(|(name, body)| (name == *b"ANMF").then_some(body));
    let (header, picture) = frame
        .and_then(<[u8]>::split_first_chunk::<FRAME_HEADER>)
        .ok_or_else(|| damaged("it has no first frame"))?;
    let (left, top) = (2 * le(&header[..3]), 2 * le(&header[3..6]));
    let (columns, rows) = (le(&header[6..9]) + 1, le(&header[9..12]) + 1);
    if left + columns > width || top + rows > height {
        return Err(damaged("its first frame is larger than its canvas"));
    }
    // A lossy picture without a chunk of alpha has none; a lossless one has its own.
    let opaque = picture.starts_with(b"VP8 ");
    let flags = if opaque { 0 } else { 0x10 };
    let length = u32::try_from(picture.len() + 22).map_err(damaged)?;
    let still = [
        b"RIFF",
        &length.to_le_bytes(),
        &b"WEBPVP8X\x0a\0\0\0"[..],
        &[flags, 0, 0, 0],
        &header[6..12],
        picture,
    ]
    .concat();
    let mut decoder = WebPDecoder::new(Cursor::new(still.as_slice())).map_err(damaged)?;
    let (samples, alpha) = samples(&mut decoder)?;

    let mut canvas = vec![0; width * height * 4];
    let channels = if alpha { 4 } else { 3 };
    let row_of = columns * channels;
    for (row, samples) in samples.chunks_exact(row_of).take(rows).enumerate() {
        let start = ((top + row) * width + left) * 4;
        let pixels = canvas[start..start + columns * 4].chunks_exact_mut(4);
        for (pixel, sample) in pixels.zip(samples.chunks_exact(channels)) {
            pixel[3] = 255;
            pixel[..channels].copy_from_slice(sample);
        }
    }
    Ok(canvas)
}

fn without_alpha(rgba: &[u8]) -> Vec<u8> {
    let (pixels, _) = rgba.as_chunks::<4>();
    pixels
        .iter()
        .flat_map(|&[red, green, blue, _]| [red, green, blue])
        .collect()
}
