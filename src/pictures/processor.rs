//! `preprocessor_config.json`: which size, range and mean a model's pictures have.
//!
//! What is computed is what transformers' processors on Pillow compute (`PilBackend._preprocess`): resize,
//! centre crop, times `rescale_factor` in f64, minus mean over standard deviation in f32. Pictures come in as
//! RGB, so `do_convert_rgb` has nothing left to do. An option that would change the numbers and is not
//! one of these is refused by name.

use serde_json::{Map, Value};

use crate::{
    error::{Code, Error, Result},
    pictures::{
        decode::{MAX_PIXELS, refused},
        picture::Picture,
        resize::{Filter, resize},
    },
};

/// The numbers that a model reads for one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    /// Red, green and blue.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Pixels a row.
    pub width: usize,
    /// `channels` planes of `height` rows of `width` values, rescaled and normalised.
    pub data: Vec<f32>,
}

/// A model's way from a picture to [`Pixels`].
#[derive(Debug, Clone, PartialEq)]
pub struct Processor {
    resize: Option<(Size, Filter)>,
    /// Height and width of what is cut out of the middle.
    crop: Option<(usize, usize)>,
    rescale: Option<f64>,
    /// Mean and standard deviation of each channel.
    normalise: Option<([f32; 3], [f32; 3])>,
}

/// What a picture is resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// Just so, whatever the picture's shape.
    Exact { height: usize, width: usize },
    /// The shape is kept and the shorter side is this long; the longer one at most so long.
    Shortest { edge: usize, longest: Option<usize> },
    /// The shape is kept and both sides are as long as this allows.
    Within { height: usize, width: usize },
}

/// What a class of transformers does where a file says nothing. All of them resize, rescale by 1/255 and
/// normalise.
struct Class {
    /// The class without `ImageProcessor` or `FeatureExtractor`.
    name: &'static str,
    size: Size,
    /// Whether a size that is one number means a square.
    square: bool,
    filter: Filter,
    /// The side of the square that is cut out.
    crop: Option<usize>,
    mean: [f64; 3],
    std: [f64; 3],
}

const HALF: [f64; 3] = [0.5; 3]; // IMAGENET_STANDARD_MEAN and _STD
const CLIP_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73]; // OPENAI_CLIP_MEAN
const CLIP_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11]; // OPENAI_CLIP_STD

const fn exact(side: usize) -> Size {
    Size::Exact {
        height: side,
        width: side,
    }
}

const CLIP: Class = Class {
    name: "CLIP",
    size: Size::Shortest {
        edge: 224,
        longest: None,
    },
    square: false,
    filter: Filter::Bicubic,
    crop: Some(224),
    mean: CLIP_MEAN,
    std: CLIP_STD,
};

/// Those of transformers that only differ in these values.
const CLASSES: [Class; 6] = [
    Class {
        name: "ViT",
        size: exact(224),
        square: true,
        filter: Filter::Bilinear,
        crop: None,
        mean: HALF,
        std: HALF,
    },
    Class {
        name: "DeiT",
        size: exact(256),
        square: true,
        filter: Filter::Bicubic,
        crop: Some(224),
        mean: HALF,
        std: HALF,
    },
    Class { name: "Bit", ..CLIP },
    CLIP,
    Class {
        name: "Blip",
        size: exact(384),
        square: true,
        filter: Filter::Bicubic,
        crop: None,
        mean: CLIP_MEAN,
        std: CLIP_STD,
    },
    Class {
        name: "Siglip",
        size: exact(224),
        square: false,
        filter: Filter::Bicubic,
        crop: None,
        mean: HALF,
        std: HALF,
    },
];

/// Options that are read here, or that say nothing about the numbers.
const KNOWN: [&str; 27] = [
    "_valid_processor_keys",
    "auto_map",
    "crop_size",
    "data_format",
    "default_to_square",
    "device",
    "disable_grouping",
    "do_center_crop",
    "do_convert_rgb",
    "do_normalize",
    "do_reduce_labels", // of segmentation maps
    "do_rescale",
    "do_resize",
    "feature_extractor_type",
    "image_mean",
    "image_processor_type",
    "image_std",
    "input_data_format",
    "pad_size", // says something only with do_pad
    "processor_class",
    "reduce_labels",
    "resample",
    "rescale_factor",
    "return_tensors",
    "size",
    "model_input_names",
    "transformers_version",
];

impl Processor {
    /// What a parsed `preprocessor_config.json` says, or a `processor_config.json` with its part
    /// `image_processor`; `file` is what messages call it. A file that names no class is taken as ViT's.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] for a value outside its range, [`Code::ModelUnsupported`] for another class of
    /// processor or an option that would change the numbers, each by name.
    pub fn parse(config: &Value, file: &str) -> Result<Self> {
        let fields = config.get("image_processor").unwrap_or(config);
        let Some(fields) = fields.as_object() else {
            return Err(Error::new(Code::ConfigInvalid, format!("No JSON object: {file}")));
        };
        let file = File { fields, name: file };
        let class = file.class()?;
        if let Some((name, value)) = fields.iter().find(|(name, value)| {
            let off = value.is_null() || **value == Value::Bool(false);
            !off && !KNOWN.contains(&name.as_str())
        }) {
            return Err(file.unsupported(&format!("{name} is {value}, which is not supported")));
        }

        let resize = if file.switch("do_resize", true)? {
            Some((
                file.size("size", class)?.unwrap_or(class.size),
                file.filter(class)?,
            ))
        } else {
            None
        };
        let crop = if file.switch("do_center_crop", class.crop.is_some())? {
            Some(match (file.size("crop_size", &CLASSES[0])?, class.crop) {
                (Some(Size::Exact { height, width }), _) => (height, width),
                (None, Some(side)) => (side, side),
                _ => return Err(file.invalid("crop_size must have a height and a width")),
            })
        } else {
            None
        };
        let rescale = if file.switch("do_rescale", true)? {
            Some(match file.value("rescale_factor") {
                None => 1.0 / 255.0,
                Some(value) => value
                    .as_f64()
                    .ok_or_else(|| file.not("rescale_factor", value, "a number"))?,
            })
        } else {
            None
        };
        let normalise = if file.switch("do_normalize", true)? {
            let std = file.channels("image_std", class.std)?;
            if std.contains(&0.0) {
                return Err(file.invalid("image_std is 0, by which nothing can be divided"));
            }
            Some((file.channels("image_mean", class.mean)?, std))
        } else {
            None
        };
        Ok(Self {
            resize,
            crop,
            rescale,
            normalise,
        })
    }

    /// The numbers that the model reads for `picture`, which messages call `name`.
    ///
    /// # Errors
    /// [`Code::SamplesInvalid`] for a picture of so long a shape that resizing would leave it no pixels, or
    /// more than [`MAX_PIXELS`].
    pub fn pixels(&self, picture: &Picture, name: &str) -> Result<Pixels> {
        let mut picture = std::borrow::Cow::Borrowed(picture);
        if let Some((size, filter)) = self.resize {
            let (height, width) = size.of(picture.height, picture.width);
            if height == 0 || width == 0 || height.saturating_mul(width) > MAX_PIXELS {
                return Err(refused(
                    &format!(
                        "The picture's {} x {} pixels would become {width} x {height} for the model; take one that is less long or tall",
                        picture.width, picture.height
                    ),
                    name,
                ));
            }
            picture = std::borrow::Cow::Owned(resize(&picture, width, height, filter));
        }
        if let Some((height, width)) = self.crop {
            picture = std::borrow::Cow::Owned(crop(&picture, height, width));
        }
        let (height, width) = (picture.height, picture.width);
        let mut data = Vec::with_capacity(picture.rgb.len());
        for channel in 0..3 {
            let table = self.table(channel);
            let values = picture.rgb.iter().skip(channel).step_by(3);
            data.extend(values.map(|&value| table[usize::from(value)]));
        }
        Ok(Pixels {
            channels: 3,
            height,
            width,
            data,
        })
    }

    /// What each of the 256 values of a channel becomes.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "transformers rescales in f64 and goes on in f32"
    )]
    fn table(&self, channel: usize) -> [f32; 256] {
        let mut table = [0.0; 256];
        for (value, number) in (0..=u8::MAX).zip(&mut table) {
            *number = match self.rescale {
                Some(factor) => (f64::from(value) * factor) as f32,
                None => f32::from(value),
            };
            if let Some((mean, std)) = self.normalise {
                *number = (*number - mean[channel]) / std[channel];
            }
        }
        table
    }
}

impl Size {
    /// Height and width that a picture of that height and width is resized to.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "sides are positive; Python's int() cuts off as `as` does, and what is too large is refused behind"
    )]
    fn of(self, height: usize, width: usize) -> (usize, usize) {
        let (tall, wide) = (height as f64, width as f64);
        match self {
            Self::Exact { height, width } => (height, width),
            // get_image_size_for_max_height_width
            Self::Within {
                height: most_tall,
                width: most_wide,
            } => {
                let scale = (most_tall as f64 / tall).min(most_wide as f64 / wide);
                ((tall * scale) as usize, (wide * scale) as usize)
            }
            // get_resize_output_image_size
            Self::Shortest { edge, longest: None } => {
                let long = |long: f64, short: f64| (edge as f64 * long / short) as usize;
                if width <= height {
                    (long(tall, wide), edge)
                } else {
                    (edge, long(wide, tall))
                }
            }
            // get_size_with_aspect_ratio
            Self::Shortest {
                edge,
                longest: Some(longest),
            } => {
                let (short, long) = (tall.min(wide), tall.max(wide));
                let mut exact = edge as f64;
                let mut edge = edge;
                if long / short * exact > longest as f64 {
                    exact = longest as f64 * short / long;
                    edge = exact.round_ties_even() as usize;
                }
                if height.min(width) == edge {
                    (height, width)
                } else if width < height {
                    ((exact * tall / wide) as usize, edge)
                } else {
                    (edge, (exact * wide / tall) as usize)
                }
            }
        }
    }
}

/// The middle of a picture; where it is too small, black around it.
fn crop(picture: &Picture, height: usize, width: usize) -> Picture {
    // Where a row or column of the result stands in the picture: the middle is rounded down when something is
    // cut off, and up when something is added, as in transformers' center_crop.
    let from = |at: usize, side: usize, cropped: usize| {
        if cropped <= side {
            Some(at + (side - cropped) / 2)
        } else {
            at.checked_sub((cropped - side).div_ceil(2))
                .filter(|&at| at < side)
        }
    };
    let columns: Vec<Option<usize>> = (0..width).map(|x| from(x, picture.width, width)).collect();
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        let row = from(y, picture.height, height).map(|y| &picture.rgb[y * picture.width * 3..]);
        for x in &columns {
            match (row, x) {
                (Some(row), Some(x)) => rgb.extend_from_slice(&row[x * 3..x * 3 + 3]),
                _ => rgb.extend([0; 3]),
            }
        }
    }
    Picture { width, height, rgb }
}

/// The fields of a configuration, and what messages call the file.
struct File<'a> {
    fields: &'a Map<String, Value>,
    name: &'a str,
}

impl File<'_> {
    fn invalid(&self, what: &str) -> Error {
        Error::new(Code::ConfigInvalid, format!("{what}: {}", self.name))
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::new(Code::ModelUnsupported, format!("{what}: {}", self.name))
    }

    fn not(&self, option: &str, value: &Value, what: &str) -> Error {
        self.invalid(&format!("{option} is {value}, not {what}"))
    }

    /// The value of an option that is there and not null.
    fn value(&self, option: &str) -> Option<&Value> {
        self.fields.get(option).filter(|value| !value.is_null())
    }

    fn class(&self) -> Result<&'static Class> {
        let Some(value) = self
            .value("image_processor_type")
            .or_else(|| self.value("feature_extractor_type"))
        else {
            return Ok(&CLASSES[0]);
        };
        let name = value.as_str().unwrap_or_default();
        // The ways in which a class computes the same: on torchvision (`Fast`, and nothing since
        // transformers 5) and on Pillow (`Pil`, and nothing before).
        let bare = ["Fast", "Pil"]
            .iter()
            .find_map(|ending| name.strip_suffix(ending))
            .unwrap_or(name);
        let family = ["ImageProcessor", "FeatureExtractor"]
            .iter()
            .find_map(|ending| bare.strip_suffix(ending));
        CLASSES
            .iter()
            .find(|class| Some(class.name) == family)
            .ok_or_else(|| {
                let known: Vec<&str> = CLASSES.iter().map(|class| class.name).collect();
                self.unsupported(&format!(
                    "image_processor_type is {value}, which is not supported (only the processors of {})",
                    known.join(", ")
                ))
            })
    }

    fn switch(&self, option: &str, otherwise: bool) -> Result<bool> {
        match self.value(option) {
            None => Ok(otherwise),
            Some(Value::Bool(on)) => Ok(*on),
            Some(value) => Err(self.not(option, value, "true or false")),
        }
    }

    /// A size in any of its spellings.
    fn size(&self, option: &str, class: &Class) -> Result<Option<Size>> {
        let Some(value) = self.value(option) else {
            return Ok(None);
        };
        let wrong = || self.not(option, value, "a size of 1 to 65535 pixels a side");
        let side = |value: &Value| {
            let side = value
                .as_u64()
                .and_then(|side| u16::try_from(side).ok())
                .map(usize::from);
            side.filter(|&side| side > 0).ok_or_else(wrong)
        };
        let square = self.switch("default_to_square", class.square)?;
        let size = match value {
            Value::Object(sides) => {
                let get = |name: &str| {
                    sides
                        .get(name)
                        .filter(|side| !side.is_null())
                        .map(side)
                        .transpose()
                };
                match (get("shortest_edge")?, get("longest_edge")?) {
                    (Some(edge), longest) => Size::Shortest { edge, longest },
                    (None, Some(_)) => return Err(wrong()),
                    (None, None) => match (
                        get("max_height")?,
                        get("max_width")?,
                        get("height")?,
                        get("width")?,
                    ) {
                        (Some(height), Some(width), _, _) => Size::Within { height, width },
                        (_, _, Some(height), Some(width)) => Size::Exact { height, width },
                        _ => return Err(wrong()),
                    },
                }
            }
            Value::Array(sides) => match sides.as_slice() {
                [height, width] => Size::Exact {
                    height: side(height)?,
                    width: side(width)?,
                },
                _ => return Err(wrong()),
            },
            number if option == "crop_size" || square => exact(side(number)?),
            number => Size::Shortest {
                edge: side(number)?,
                longest: None,
            },
        };
        Ok(Some(size))
    }

    fn filter(&self, class: &Class) -> Result<Filter> {
        let Some(value) = self.value("resample") else {
            return Ok(class.filter);
        };
        let filter = match value {
            Value::String(name) => Filter::from_name(name),
            number => number.as_u64().and_then(Filter::from_number),
        };
        filter.ok_or_else(|| {
            self.not(
                "resample",
                value,
                "one of 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box, 5 hamming",
            )
        })
    }

    /// A value for each channel; one number stands for all three.
    #[expect(clippy::cast_possible_truncation, reason = "transformers goes on in f32 too")]
    fn channels(&self, option: &str, otherwise: [f64; 3]) -> Result<[f32; 3]> {
        let wrong = |value| self.not(option, value, "a number or a list of three");
        let values = match self.value(option) {
            None => otherwise,
            Some(value @ Value::Array(list)) => {
                let list: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
                list.and_then(|list| list.try_into().ok())
                    .ok_or_else(|| wrong(value))?
            }
            Some(value) => [value.as_f64().ok_or_else(|| wrong(value))?; 3],
        };
        Ok(values.map(|value| value as f32))
    }
}
