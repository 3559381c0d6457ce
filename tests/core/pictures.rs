//! Pictures as transformers' processors on Pillow read them: the goldens of `tests/goldens/pictures.py`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at what it did not expect"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use iteris_web::{
    error::Code,
    pictures::{Picture, Pixels, Processor, decode},
};
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

fn data() -> PathBuf {
    crate::support::goldens().join("pictures")
}

fn read_json<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&fs::read(data().join(name)).unwrap()).unwrap()
}

/// Every picture that is read, by name.
fn files() -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(data().join("files")).unwrap();
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
}

fn is_jpeg(name: &str) -> bool {
    name.ends_with(".jpg")
}

/// The largest difference of two equally long rows of bytes.
fn distance(ours: &[u8], theirs: &[u8]) -> u8 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter()
        .zip(theirs)
        .map(|(a, b)| a.abs_diff(*b))
        .max()
        .unwrap()
}

/// Levels by which pixels may differ from libjpeg-turbo's, as measured. Our decoder rounds its cosine transform and
/// its colours otherwise (2 levels). Chroma of half the width or height it scales up in two rounded steps, and at the
/// right and lower edge it takes the padding of the last block for pixels, where libjpeg repeats the last one: there
/// a hard edge shows.
fn jpeg_levels(name: &str) -> u8 {
    match name {
        "422.jpg" | "420-odd.jpg" => 3,
        "restarts.jpg" => 8,
        "progressive.jpg" => 21,
        _ if is_jpeg(name) => 2,
        _ => 0,
    }
}

#[test]
fn pictures_are_decoded_as_pillow_decodes_them() {
    let file = fs::read(data().join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&file).unwrap();
    let facts: Vec<Value> = read_json("pictures.json");
    assert_eq!(facts.len(), files().len());
    for fact in &facts {
        let name = fact["file"].as_str().unwrap();
        let picture = decode(&files()[name], name).unwrap();
        assert_eq!(
            json!([picture.width, picture.height]),
            json!([fact["width"], fact["height"]]),
            "{name}"
        );
        if let Ok(decoded) = expected.tensor(&format!("{name}/decoded")) {
            let distance = distance(&picture.rgb, decoded.data());
            assert!(distance <= jpeg_levels(name), "{name}: {distance}");
        }
    }
}

/// The configuration without what follows resizing and cropping, so that pixels are bytes.
fn in_bytes(config: &Map<String, Value>) -> Value {
    let mut config = config.clone();
    config.insert("do_rescale".into(), false.into());
    config.insert("do_normalize".into(), false.into());
    Value::Object(config)
}

#[test]
fn pixels_are_those_of_transformers_processors() {
    let file = fs::read(data().join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&file).unwrap();
    let configs: BTreeMap<String, Map<String, Value>> = read_json("configs.json");
    let facts: Vec<Value> = read_json("pictures.json");
    let mut compared = 0;
    for fact in &facts {
        let name = fact["file"].as_str().unwrap();
        let picture = decode(&files()[name], name).unwrap();
        for (key, config) in &configs {
            let processor = Processor::parse(&in_bytes(config), "preprocessor_config.json").unwrap();
            if fact["refused"]
                .as_array()
                .is_some_and(|keys| keys.contains(&json!(key)))
            {
                let error = processor.pixels(&picture, name).unwrap_err();
                assert_eq!(error.code(), Code::SamplesInvalid);
                assert!(error.to_string().ends_with(name), "{error}");
                continue;
            }
            let Ok(tensor) = expected.tensor(&format!("{name}/{key}")) else {
                continue;
            };
            let pixels = processor.pixels(&picture, name).unwrap();
            assert_eq!(
                [pixels.channels, pixels.height, pixels.width],
                tensor.shape(),
                "{name}/{key}"
            );
            let bytes: Vec<u8> = pixels
                .data
                .iter()
                .map(|&value| {
                    assert!((0.0..=255.0).contains(&value) && value.fract() == 0.0);
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "checked above"
                    )]
                    let byte = value as u8;
                    byte
                })
                .collect();
            let distance = distance(&bytes, tensor.data());
            assert!(distance <= jpeg_levels(name), "{name}/{key}: {distance}");
            compared += 1;

            let Ok(tensor) = expected.tensor(&format!("{name}/{key}.f32")) else {
                continue;
            };
            let processor =
                Processor::parse(&Value::Object(config.clone()), "preprocessor_config.json").unwrap();
            let pixels = processor.pixels(&picture, name).unwrap();
            let (theirs, _) = tensor.data().as_chunks::<4>();
            for (ours, theirs) in pixels.data.iter().zip(theirs) {
                let theirs = f32::from_le_bytes(*theirs);
                assert!(
                    (ours - theirs).abs() <= 1e-6 * theirs.abs().max(1.0),
                    "{name}/{key}: {ours} {theirs}"
                );
            }
            assert_eq!(pixels.data.len(), theirs.len());
            compared += 1;
        }
    }
    assert!(compared > 150, "{compared}");
}

#[test]
fn what_is_no_picture_is_refused_by_name() {
    for (name, what) in [
        ("half.png", "cannot be decoded"),
        ("half.jpg", "cut off"),
        ("half.webp", "cut off"),
        ("half-lossless.webp", "cut off"),
        ("half.gif", "cannot be decoded"),
        ("half.bmp", "cut off"),
        ("half-rle.bmp", "cut off"),
        ("picture.tiff", "TIFF"),
        ("text.png", "no picture"),
        ("empty.jpg", "empty"),
        ("too-large.png", "40 megapixels"),
        ("too-large.gif", "40 megapixels"),
        ("too-large.bmp", "40 megapixels"),
        ("no-pixels.png", "no pixels"),
    ] {
        let bytes = fs::read(data().join("refused").join(name)).unwrap();
        let error = decode(&bytes, name).unwrap_err();
        assert_eq!(error.code(), Code::SamplesInvalid, "{name}");
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.to_string().ends_with(name), "{error}");
    }
}

/// What a header does not declare too large is decoded or refused, whatever the bytes: every length of the
/// smaller files, and a thousand changes of each. None takes two seconds.
#[test]
fn damaged_bytes_never_panic() {
    const LIMIT: Duration = Duration::from_secs(2);
    let mut state = 1_u64;
    let mut random = |below: usize| {
        // A linear congruential generator (Knuth's MMIX); the upper bits are the random ones.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let mut tried = 0;
    let mut slowest = Duration::ZERO;
    let mut check = |bytes: &[u8], name: &str| {
        let timed = || {
            let begin = Instant::now();
            check(decode(bytes, name), name);
            begin.elapsed()
        };
        let mut took = timed();
        if took >= LIMIT {
            // The machine may have been busy with something else for so long.
            took = took.min(timed());
        }
        slowest = slowest.max(took);
        tried += 1;
    };
    for (name, bytes) in files() {
        if bytes.len() > 4000 {
            continue;
        }
        for end in 0..bytes.len() {
            check(&bytes[..end], &name);
        }
        for _ in 0..1000 {
            let mut damaged = bytes.clone();
            for _ in 0..=random(3) {
                let at = random(damaged.len());
                match random(5) {
                    0 => damaged[at] = u8::try_from(random(256)).unwrap(),
                    1 => damaged[at] ^= 1 << random(8),
                    2 => damaged[at] = 0xff,
                    3 => damaged[at] = 0,
                    _ => {
                        let other = random(damaged.len());
                        damaged.swap(at, other);
                    }
                }
            }
            check(&damaged, &name);
        }
    }
    assert!(tried > 100_000, "{tried}");
    assert!(slowest < LIMIT, "{slowest:?}");
}

fn check(result: iteris_web::error::Result<Picture>, name: &str) {
    match result {
        Ok(picture) => {
            assert!(picture.width > 0 && picture.height > 0);
            assert_eq!(picture.rgb.len(), picture.width * picture.height * 3);
        }
        Err(error) => {
            assert_eq!(error.code(), Code::SamplesInvalid);
            assert!(error.to_string().ends_with(name), "{error}");
        }
    }
}

fn parse(config: &Value) -> iteris_web::error::Result<Processor> {
    Processor::parse(config, "preprocessor_config.json")
}

fn shape(config: &Value, width: usize, height: usize) -> [usize; 2] {
    let picture = Picture {
        width,
        height,
        rgb: vec![7; width * height * 3],
    };
    let Pixels { height, width, .. } = parse(config).unwrap().pixels(&picture, "x.png").unwrap();
    [height, width]
}

#[test]
fn sizes_are_read_in_every_spelling() {
    let vit = |size: Value| json!({ "image_processor_type": "ViTImageProcessorFast", "size": size });
    assert_eq!(shape(&json!({}), 9, 5), [224, 224]);
    assert_eq!(shape(&vit(json!(30)), 9, 5), [30, 30]);
    assert_eq!(shape(&vit(json!([20, 30])), 9, 5), [20, 30]);
    assert_eq!(shape(&vit(json!({ "height": 20, "width": 30 })), 9, 5), [20, 30]);
    assert_eq!(shape(&vit(json!({ "shortest_edge": 10 })), 9, 5), [10, 18]);
    assert_eq!(
        shape(&vit(json!({ "shortest_edge": 10, "longest_edge": null })), 5, 9),
        [18, 10]
    );
    assert_eq!(
        shape(&vit(json!({ "shortest_edge": 10, "longest_edge": 12 })), 9, 5),
        [7, 12]
    );
    assert_eq!(
        shape(&vit(json!({ "max_height": 10, "max_width": 12 })), 9, 5),
        [6, 12]
    );
    let clip = json!({ "image_processor_type": "CLIPImageProcessor", "size": 32, "do_center_crop": false });
    assert_eq!(shape(&clip, 90, 50), [32, 57]);
    assert_eq!(
        shape(
            &json!({ "feature_extractor_type": "CLIPFeatureExtractor" }),
            90,
            50
        ),
        [224, 224]
    );
    // A processor_config.json holds it with the processors of other inputs.
    let nested = json!({ "processor_class": "X", "image_processor": { "size": 12 } });
    assert_eq!(shape(&nested, 9, 5), [12, 12]);
}

#[test]
fn what_would_change_the_numbers_is_refused_by_name() {
    for (config, code, what) in [
        (json!([]), Code::ConfigInvalid, "No JSON object"),
        (
            json!({ "image_processor_type": "ConvNextImageProcessor" }),
            Code::ModelUnsupported,
            "ConvNextImageProcessor",
        ),
        (
            json!({ "do_pad": true }),
            Code::ModelUnsupported,
            "do_pad is true",
        ),
        (
            json!({ "crop_pct": 0.9 }),
            Code::ModelUnsupported,
            "crop_pct is 0.9",
        ),
        (json!({ "size": 0 }), Code::ConfigInvalid, "size is 0"),
        (json!({ "size": 1.5 }), Code::ConfigInvalid, "size is 1.5"),
        (
            json!({ "size": { "longest_edge": 5 } }),
            Code::ConfigInvalid,
            "size is {",
        ),
        (
            json!({ "size": { "height": 5 } }),
            Code::ConfigInvalid,
            "size is {",
        ),
        (
            json!({ "do_center_crop": true }),
            Code::ConfigInvalid,
            "crop_size",
        ),
        (json!({ "resample": 6 }), Code::ConfigInvalid, "resample is 6"),
        (
            json!({ "resample": "magic" }),
            Code::ConfigInvalid,
            "resample is \"magic\"",
        ),
        (
            json!({ "do_resize": "yes" }),
            Code::ConfigInvalid,
            "do_resize is \"yes\"",
        ),
        (
            json!({ "image_mean": [0.5, 0.5] }),
            Code::ConfigInvalid,
            "image_mean is [0.5,0.5]",
        ),
        (json!({ "image_std": 0 }), Code::ConfigInvalid, "image_std is 0"),
        (
            json!({ "rescale_factor": "1/255" }),
            Code::ConfigInvalid,
            "rescale_factor",
        ),
    ] {
        let error = parse(&config).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.to_string().ends_with("preprocessor_config.json"), "{error}");
    }
    // What is switched off, or says nothing about numbers, is no reason.
    parse(&json!({ "do_pad": false, "crop_pct": null, "do_convert_rgb": true, "pad_size": 3 })).unwrap();
    parse(&json!({ "resample": "PILImageResampling.BICUBIC", "image_mean": 0.5 })).unwrap();
}
