//! The binding to JavaScript: the only file that sees a `JsValue`.
//!
//! It translates and nothing else. Files arrive as `Blob`s or as objects with a `read(start, end)` method
//! and are read by range; results leave through the observer's `write`. A failure becomes an `Error` with
//! a `code`. The hazard of the browser is that a promise dropped half-way leaves JavaScript waiting, so
//! every call here ends in a value or an error.

use std::{
    cell::{OnceCell, RefCell},
    ops::Range,
    rc::Rc,
};

use async_trait::async_trait;
use js_sys::{Array, Function, Promise, Reflect, Uint8Array, Uint32Array};
use serde::Serialize;
use wasm_bindgen::{JsCast, prelude::*};
use wasm_bindgen_futures::JsFuture;

use crate::{
    calibrate::{Given, SelfWritten, TaskSamples},
    compare::{Class, CompareReport},
    compute::{
        Answer, Available, Compute, KernelRates, Limits, Noting, Questions, WEBGPU, Workers, peak_bytes,
        refused_bytes, start_gpu,
    },
    describe::camel_case,
    error::{Code, Error, Result},
    io::{ByteSource, Folder, Sink},
    jobs::{
        AdapterInput,
        choice::{Candidates, Chosen, Devices, Measured},
        compare::{self, CompareRequest, MergedInput},
        generate::{self, GenerateRequest, Variant, Written},
        inspect,
        logits::{logits as compute_logits, logits_of_pictures},
        merge::{self, MergeRequest},
        plan, share,
    },
    merge::{
        methods::METHODS,
        options::{MergeOptions, MethodName},
    },
    model::batch::{Input, Sample},
    progress::{self, Pace, Progress},
};

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
/** A file that is read by range: give `blob`, or `read`; `readInto` writes to the module's own memory at once. */
export interface SourceFile { name: string; size: number; blob?: Blob; read?(start: number, end: number): Promise<Uint8Array>; readInto?(start: number, end: number, memory: WebAssembly.Memory, address: number): void; sha256?(): Promise<string | undefined>; }
/** Tokenised samples, one after another; `lengths` says where each ends. */
export interface TokenizedSamples { ids: Uint32Array; typeIds?: Uint32Array; lengths: Uint32Array; truncated: number; labels?: (string | number | null)[]; source?: string; prompts?: Uint8Array; answers?: Uint32Array; answerLengths?: Uint32Array; labelIds?: Uint32Array; labelLengths?: Uint32Array; notes?: string[]; }
/** Told of progress (false cancels; let the event loop run before answering) and given the results. */
export interface Observer { progress(progress: unknown): Promise<boolean>; write(file: string, bytes: Uint8Array): Promise<void>; read(file: string, start: number, end: number): Promise<Uint8Array>; remove(file: string): Promise<void>; sha256?(file: string): Promise<string>; }
"#;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(message: &str);
}

/// A trap for want of memory says nothing; what was refused is told by [`failed_allocation`].
#[global_allocator]
static ALLOCATOR: Noting = Noting;

#[cfg(target_family = "wasm")]
unsafe extern "C" {
    /// Runs the constructors of statics, of which burn's compiler has thousands. Where nothing calls this, the linker
    /// has every export run all of them whenever JavaScript calls it: some 0.2 ms, a thousand times a merge.
    fn __wasm_call_ctors();
}

/// Runs when the module starts: a panic, which ends the module, says where it happened.
#[wasm_bindgen(start)]
pub fn start() {
    // SAFETY: nothing else calls it, and nothing else has run yet.
    #[cfg(target_family = "wasm")]
    unsafe {
        __wasm_call_ctors();
    }
    std::panic::set_hook(Box::new(|panic| console_error(&panic.to_string())));
}

/// The version of the program.
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// Bytes of the last request for memory that was refused. May be called after a trap.
#[wasm_bindgen(js_name = failedAllocation)]
pub fn failed_allocation() -> Option<f64> {
    refused_bytes().map(|bytes| bytes as f64)
}

/// Bytes that the module's memory has grown to. May be called after a trap.
#[wasm_bindgen(js_name = memoryBytes)]
pub fn memory_bytes() -> f64 {
    peak_bytes().unwrap_or(0) as f64
}

/// The options of a merge with their defaults.
#[wasm_bindgen(js_name = defaultOptions)]
pub fn default_options() -> std::result::Result<JsValue, JsValue> {
    let options = MergeOptions::default();
    let value = to_js(&options).map_err(throw)?;
    // Reports name options in snake_case; JavaScript callers in camelCase.
    let object = js_sys::Object::new();
    for entry in js_sys::Object::entries(value.unchecked_ref()).iter() {
        let entry: Array = entry.unchecked_into();
        Reflect::set(
            &object,
            &camel_case(&entry.get(0).as_string().unwrap_or_default()).into(),
            &entry.get(1),
        )?;
    }
    Ok(object.into())
}

/// The names of the merge methods.
#[wasm_bindgen]
pub fn methods() -> std::result::Result<JsValue, JsValue> {
    let names: Vec<MethodName> = METHODS.iter().map(|facts| facts.name).collect();
    to_js(&names).map_err(throw)
}

/// Where a job computes.
#[wasm_bindgen]
pub struct Device {
    kind: Kind,
}

enum Kind {
    Cpu,
    Webgpu(Gpu),
    Quicker(Gpu),
}

/// The GPU of this module.
#[derive(Clone)]
struct Gpu {
    device: burn::tensor::Device,
    limits: Limits,
    /// What was measured of it and of the CPU.
    measured: Rc<OnceCell<Measured>>,
    /// What it is called in reasons.
    name: String,
}

impl Gpu {
    async fn started(name: String) -> Result<Self> {
        thread_local! {
            static STARTED: RefCell<Option<Gpu>> = const { RefCell::new(None) };
        }
        if let Some(gpu) = STARTED.with_borrow(Clone::clone) {
            return Ok(gpu);
        }
        let (device, limits) = start_gpu().await?;
        let gpu = Self {
            device,
            limits,
            measured: Rc::default(),
            name,
        };
        STARTED.set(Some(gpu.clone()));
        Ok(gpu)
    }

    fn compute(&self) -> Compute {
        Compute::tensors(self.device.clone(), WEBGPU.name).with_limits(self.limits)
    }
}

/// The devices of one call.
struct Places {
    /// The one that was asked for; the CPU where the quicker was.
    compute: Compute,
    /// Where the quicker was.
    other: Option<(Compute, Gpu)>,
}

impl<'a> From<&'a Places> for Devices<'a> {
    fn from(Places { compute, other }: &'a Places) -> Self {
        match other {
            None => Self::Given(compute),
            Some((gpu, of)) => Self::Quicker(Candidates {
                cpu: compute,
                gpu,
                gpu_name: &of.name,
                measured: &of.measured,
            }),
        }
    }
}

#[wasm_bindgen]
impl Device {
    /// The CPU.
    pub fn cpu() -> Self {
        Self { kind: Kind::Cpu }
    }

    /// The GPU, of that name. The caller has made sure that there is an adapter with what burn needs.
    pub async fn webgpu(name: String) -> std::result::Result<Self, JsValue> {
        let gpu = Gpu::started(name).await.map_err(throw)?;
        Ok(Self {
            kind: Kind::Webgpu(gpu),
        })
    }

    /// The CPU or the GPU, whichever is quicker for what is asked of it. As [`Device::webgpu`].
    pub async fn quicker(name: String) -> std::result::Result<Self, JsValue> {
        let gpu = Gpu::started(name).await.map_err(throw)?;
        Ok(Self {
            kind: Kind::Quicker(gpu),
        })
    }

    /// With the workers that an observer brings, if it does.
    fn places(&self, observer: &JsValue) -> Places {
        let cpu = || match get(observer, "workers") {
            workers if workers.is_object() => Compute::cpu().with_workers(Rc::new(Team { object: workers })),
            _ => Compute::cpu(),
        };
        match &self.kind {
            Kind::Cpu => Places {
                compute: cpu(),
                other: None,
            },
            Kind::Webgpu(gpu) => Places {
                compute: gpu.compute(),
                other: None,
            },
            Kind::Quicker(gpu) => Places {
                compute: cpu(),
                other: Some((gpu.compute(), gpu.clone())),
            },
        }
    }
}

/// What a person wants to know of a base model: its facts.
#[wasm_bindgen(js_name = inspectBase)]
pub async fn inspect_base(files: Array) -> std::result::Result<JsValue, JsValue> {
    let facts = async { inspect::base(folder("base model", &files)?).await };
    to_js(&facts.await.map_err(throw)?).map_err(throw)
}

/// What a person wants to know of an adapter: its facts.
#[wasm_bindgen(js_name = inspectAdapter)]
pub async fn inspect_adapter(files: Array) -> std::result::Result<JsValue, JsValue> {
    let facts = async { inspect::adapter(&folder("adapter", &files)?).await };
    to_js(&facts.await.map_err(throw)?).map_err(throw)
}

/// Name, size and SHA-256 of files, as reports tell them.
#[wasm_bindgen]
pub async fn digests(files: Array) -> std::result::Result<JsValue, JsValue> {
    let digests = async { folder("the files", &files)?.sha256(&Pace::unwatched()).await };
    to_js(&digests.await.map_err(throw)?).map_err(throw)
}

/// Merges; the results arrive through `observer.write`, the report is returned.
#[wasm_bindgen]
pub async fn merge(
    request: JsValue,
    device: &Device,
    observer: JsValue,
) -> std::result::Result<JsValue, JsValue> {
    let places = device.places(&observer);
    let merged = async {
        let request = merge_request(&request)?;
        let (listener, mut sink) = (
            Listener {
                object: observer.clone(),
            },
            Listener { object: observer },
        );
        merge::merge(request, &places, &listener, &mut sink).await
    };
    to_js(&merged.await.map_err(throw)?).map_err(throw)
}

/// The compiled module, for workers that help.
#[wasm_bindgen]
pub fn compiled() -> JsValue {
    wasm_bindgen::module()
}

/// Does a share of a job (`merge`, `compare` or `generate`) that `request` describes, what `questions` ask for, until no
/// more come.
#[wasm_bindgen(js_name = solveShare)]
pub async fn solve_share(
    job: String,
    request: JsValue,
    questions: JsValue,
) -> std::result::Result<(), JsValue> {
    let solved = async {
        let (compute, asking) = (Compute::cpu(), Asking(Listener { object: questions }));
        match job.as_str() {
            "merge" => share::solve_share(merge_request(&request)?, &compute, &asking).await,
            "compare" => compare::compare_share(compare_request(&request)?, &compute, &asking).await,
            "generate" => {
                generate::write_variants_share(generate_request(&request)?, &compute, &asking).await
            }
            _ => Err(Error::new(
                Code::Internal,
                format!("there are no shares of \"{job}\""),
            )),
        }
    };
    solved.await.map_err(throw)
}

/// Operations a second of the kernels at a layer of that width, each measured for about `seconds`: for the benchmark.
#[wasm_bindgen(js_name = measureKernels)]
pub fn measure_kernels(width: usize, seconds: f64) -> std::result::Result<JsValue, JsValue> {
    to_js(&KernelRates::measure(width, seconds).map_err(throw)?).map_err(throw)
}

/// What a merge will take, of the same request.
#[wasm_bindgen]
pub async fn plan(request: JsValue) -> std::result::Result<JsValue, JsValue> {
    let plan = async {
        let team = Team {
            object: get(&request, "workers"),
        };
        plan::plan(merge_request(&request)?, team.available()).await
    };
    to_js(&plan.await.map_err(throw)?).map_err(throw)
}

/// Compares the base, each adapter and merged models on samples: `{ report, device, deviceWhy }`.
#[wasm_bindgen]
pub async fn compare(
    request: JsValue,
    device: &Device,
    observer: JsValue,
) -> std::result::Result<JsValue, JsValue> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Compared {
        report: CompareReport,
        device: &'static str,
        device_why: Option<String>,
    }
    let places = device.places(&observer);
    let compared = async {
        let request = compare_request(&request)?;
        compare::compare(request, &places, &Listener { object: observer }).await
    };
    let (report, Chosen { device, why }) = compared.await.map_err(throw)?;
    to_js(&Compared {
        report,
        device,
        device_why: why,
    })
    .map_err(throw)
}

/// What variants of a model write after prompts.
#[wasm_bindgen]
pub async fn generate(
    request: JsValue,
    device: &Device,
    observer: JsValue,
) -> std::result::Result<JsValue, JsValue> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Generated {
        seconds: f64,
        tokens: usize,
        notes: Vec<String>,
        device: &'static str,
        device_why: Option<String>,
    }
    let places = device.places(&observer);
    let written = async {
        let request = generate_request(&request)?;
        generate::write_variants(request, &places, &Listener { object: observer }).await
    };
    let Written {
        variants: written,
        seconds,
        chosen: Chosen { device, why },
    } = written.await.map_err(throw)?;
    let value = to_js(&Generated {
        seconds,
        device,
        device_why: why,
        tokens: written
            .iter()
            .flat_map(|(_, answers)| answers)
            .map(|answer| answer.ids.len())
            .sum(),
        notes: Vec::new(),
    })
    .map_err(throw)?;
    let variants = Array::new();
    for (name, answers) in &written {
        let ids: Vec<u32> = answers.iter().flat_map(|answer| answer.ids.clone()).collect();
        let lengths: Vec<u32> = answers
            .iter()
            .map(|answer| u32::try_from(answer.ids.len()).unwrap_or(u32::MAX))
            .collect();
        let finished: Array = answers
            .iter()
            .map(|answer| JsValue::from_bool(answer.finished))
            .collect();
        let variant = js_sys::Object::new();
        Reflect::set(&variant, &"name".into(), &name.into())?;
        Reflect::set(&variant, &"ids".into(), &Uint32Array::from(ids.as_slice()))?;
        Reflect::set(
            &variant,
            &"lengths".into(),
            &Uint32Array::from(lengths.as_slice()),
        )?;
        Reflect::set(&variant, &"finished".into(), &finished)?;
        variants.push(&variant);
    }
    Reflect::set(&value, &"variants".into(), &variants)?;
    Ok(value)
}

/// The logits of the base model, or of the base with an adapter, under a classifier or a language model's
/// head: `{ shape, data }`, a row a sample or a row a token that the head reads. Samples may be pictures, as a merge's.
#[wasm_bindgen]
pub async fn logits(request: JsValue, device: &Device) -> std::result::Result<JsValue, JsValue> {
    #[derive(Serialize)]
    struct Logits {
        shape: [usize; 2],
    }
    let Places { compute, .. } = device.places(&JsValue::UNDEFINED);
    let found = async {
        let optional = |name: &str| -> Result<Option<Folder>> {
            let value = get(&request, name);
            value
                .dyn_ref::<Array>()
                .map(|files| folder(name, files))
                .transpose()
        };
        let given = get(&request, "samples");
        let samples = samples(&given, "samples")?;
        let base = folder("base model", &array(&request, "base")?)?;
        let (adapter, head) = (optional("adapter")?, optional("head")?);
        match get(&given, "pictures").dyn_ref::<Array>() {
            None => compute_logits(base, adapter, head, &samples, &compute).await,
            Some(files) => {
                let files = folder("pictures", files)?;
                logits_of_pictures(base, adapter, head, samples, &files, &compute).await
            }
        }
    };
    let (labels, data) = found.await.map_err(throw)?;
    let value = to_js(&Logits {
        shape: [data.len() / labels, labels],
    })
    .map_err(throw)?;
    Reflect::set(
        &value,
        &"data".into(),
        &js_sys::Float32Array::from(data.as_slice()),
    )?;
    Ok(value)
}

fn merge_request(request: &JsValue) -> Result<MergeRequest> {
    Ok(MergeRequest {
        base: Some(folder("base model", &array(request, "base")?)?),
        base_path: text(request, "basePath"),
        device_why: text(request, "deviceWhy"),
        adapters: adapters(&array(request, "adapters")?)?,
        options: parsed::<MergeOptions>(get(request, "options"))?,
    })
}

fn compare_request(request: &JsValue) -> Result<CompareRequest> {
    let merged = array(request, "merged")?
        .iter()
        .map(|value| {
            let name = text(&value, "name").unwrap_or_else(|| "merged".into());
            Ok(MergedInput {
                folder: folder(&name, &array(&value, "files")?)?,
                name,
            })
        })
        .collect::<Result<_>>()?;
    Ok(CompareRequest {
        base: folder("base model", &array(request, "base")?)?,
        adapters: adapters(&array(request, "adapters")?)?,
        merged,
        max_new_tokens: get(&get(request, "options"), "maxNewTokens")
            .as_f64()
            .map(|count| usize::try_from(whole(count)).unwrap_or(usize::MAX)),
        classes: classes(&get(&get(request, "options"), "labels"))?,
    })
}

/// Classes that are told by texts, each by its name and its token ids.
fn classes(labels: &JsValue) -> Result<Vec<Class>> {
    if !labels.is_object() {
        return Ok(Vec::new());
    }
    let names = array(labels, "texts")?;
    let ids = ragged(labels, "labels", ("ids", "lengths"))?.unwrap_or_default();
    if ids.len() != names.length() as usize {
        return Err(Error::new(
            Code::OptionInvalid,
            "labels: as many texts are wanted as lists of ids",
        ));
    }
    let class = |(name, ids): (JsValue, Vec<u32>)| Class {
        name: name.as_string().unwrap_or_default(),
        ids,
    };
    Ok(names.iter().zip(ids).map(class).collect())
}

fn generate_request(request: &JsValue) -> Result<GenerateRequest> {
    let variants = array(request, "variants")?
        .iter()
        .map(|value| {
            let name = text(&value, "name").unwrap_or_else(|| "variant".into());
            let files: Option<Array> = get(&value, "files").dyn_into().ok();
            Ok(Variant {
                folder: files.map(|files| folder(&name, &files)).transpose()?,
                name,
            })
        })
        .collect::<Result<_>>()?;
    let prompts = ragged(&get(request, "prompts"), "prompts", ("ids", "lengths"))?;
    let pictures: Option<Array> = get(request, "images").dyn_into().ok();
    Ok(GenerateRequest {
        base: folder("base model", &array(request, "base")?)?,
        variants,
        prompts: prompts.unwrap_or_default(),
        pictures: pictures.map(|files| folder("pictures", &files)).transpose()?,
        sampling: parsed(get(request, "options"))?,
    })
}

/// An object with defaults, read by its fields' names; the default if there is none.
fn parsed<T: serde::de::DeserializeOwned + Default>(value: JsValue) -> Result<T> {
    if value.is_undefined() || value.is_null() {
        return Ok(T::default());
    }
    serde_wasm_bindgen::from_value(value).map_err(|error| {
        Error::new(
            Code::OptionInvalid,
            format!("the options cannot be read: {error}"),
        )
    })
}

/// A JavaScript number that counts something.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and counts are whole"
)]
const fn whole(number: f64) -> u64 {
    number as u64
}

fn get(object: &JsValue, name: &str) -> JsValue {
    Reflect::get(object, &name.into()).unwrap_or(JsValue::UNDEFINED)
}

fn text(object: &JsValue, name: &str) -> Option<String> {
    get(object, name).as_string()
}

fn array(object: &JsValue, name: &str) -> Result<Array> {
    get(object, name)
        .dyn_into()
        .map_err(|_| Error::new(Code::OptionInvalid, format!("the request has no list \"{name}\"")))
}

fn adapters(list: &Array) -> Result<Vec<AdapterInput>> {
    let adapter = |(index, value): (usize, JsValue)| {
        let name = text(&value, "name").unwrap_or_else(|| format!("adapter {}", index + 1));
        let given = get(&value, "samples");
        let given = (!given.is_undefined() && !given.is_null()).then_some(given);
        Ok(AdapterInput {
            folder: folder(&format!("adapter \"{name}\""), &array(&value, "files")?)?,
            samples: given.as_ref().map(|given| samples(given, &name)).transpose()?,
            pictures: match &given {
                Some(given) if get(given, "pictures").is_array() => Some(folder(
                    &format!("samples of \"{name}\""),
                    &array(given, "pictures")?,
                )?),
                _ => None,
            },
            weight: match get(&value, "weight") {
                weight if weight.is_undefined() || weight.is_null() => 1.0,
                weight => weight.as_f64().unwrap_or(f64::NAN),
            },
            path: text(&value, "path"),
            name,
        })
    };
    list.iter().enumerate().map(adapter).collect()
}

fn samples(value: &JsValue, name: &str) -> Result<TaskSamples> {
    let own = get(value, "self");
    if !own.is_undefined() {
        return Ok(TaskSamples {
            own: Some(SelfWritten {
                prompt: numbers(&own, "prompt").unwrap_or_default(),
                text: text(&own, "promptText"),
                options: parsed(own)?,
            }),
            ..TaskSamples::default()
        });
    }
    let malformed =
        |what: &str| Error::new(Code::SamplesInvalid, format!("{name}: tokenised samples {what}"));
    let ids = ragged(value, name, ("ids", "lengths"))?;
    // Pictures come as files, see `adapters`; ids are those of texts beside them.
    let pictures = get(value, "pictures").dyn_into::<Array>().ok();
    let (ids, captions, count) = match (ids, pictures) {
        (ids, Some(pictures)) => (
            Vec::new(),
            ids.unwrap_or_default(),
            usize::try_from(pictures.length()).unwrap_or(usize::MAX),
        ),
        (Some(ids), None) => {
            let count = ids.len();
            (ids, Vec::new(), count)
        }
        (None, None) => return Err(malformed("have no Uint32Array \"ids\"")),
    };
    let kinds = ragged(value, name, ("typeIds", "lengths"))?.filter(|_| captions.is_empty());
    let answers = ragged(value, name, ("answers", "answerLengths"))?.unwrap_or_default();
    let label_answers = ragged(value, name, ("labelIds", "labelLengths"))?.unwrap_or_default();
    let prompts = get(value, "prompts")
        .dyn_into::<Uint8Array>()
        .map(|array| array.to_vec())
        .unwrap_or_default();
    let wrong = |length: usize| length != 0 && length != count;
    if wrong(answers.len()) || wrong(label_answers.len()) || wrong(prompts.len()) {
        return Err(malformed(
            "disagree in number: answers, labels, prompts and the samples themselves",
        ));
    }
    let answer = |index: usize| match answers.get(index) {
        Some(ids) if !ids.is_empty() => Given::Tokens(ids.clone()),
        _ if prompts.get(index) == Some(&1) => Given::Own,
        _ => Given::Nothing,
    };
    let label = |label: JsValue| {
        label
            .as_string()
            .or_else(|| label.as_f64().map(|number| number.to_string()))
    };
    let strings = |field: &str| get(value, field).dyn_into::<Array>().ok();
    Ok(TaskSamples {
        answers: (0..count).map(answer).collect(),
        captions,
        names: Vec::new(),
        label_answers,
        truncated: get(value, "truncated")
            .as_f64()
            .map_or(0, |count| usize::try_from(whole(count)).unwrap_or(usize::MAX)),
        labels: strings("labels")
            .map(|list| list.iter().map(label).collect())
            .unwrap_or_default(),
        source: text(value, "source"),
        path: text(value, "path"),
        notes: strings("notes")
            .map(|list| list.iter().filter_map(|note| note.as_string()).collect())
            .unwrap_or_default(),
        own: None,
        samples: match kinds {
            Some(kinds) => ids
                .into_iter()
                .zip(kinds)
                .map(|(ids, type_ids)| Sample::of(Input::Tokens { ids, type_ids }))
                .collect(),
            None => ids.into_iter().map(Sample::text).collect(),
        },
    })
}

fn numbers(object: &JsValue, field: &str) -> Option<Vec<u32>> {
    get(object, field)
        .dyn_into::<Uint32Array>()
        .ok()
        .map(|array| array.to_vec())
}

/// Lists of numbers that lie one after another in one array, with their lengths in another; none if the
/// object lacks the first.
fn ragged(object: &JsValue, name: &str, (all, lengths): (&str, &str)) -> Result<Option<Vec<Vec<u32>>>> {
    let Some(ids) = numbers(object, all) else {
        return Ok(None);
    };
    let malformed = |what: String| Error::new(Code::SamplesInvalid, format!("{name}: {what}"));
    let counts = numbers(object, lengths)
        .ok_or_else(|| malformed(format!("there is no Uint32Array \"{lengths}\"")))?;
    let mut rest = ids.as_slice();
    let mut lists = Vec::with_capacity(counts.len());
    for count in counts {
        let (list, after) = rest
            .split_at_checked(count as usize)
            .ok_or_else(|| malformed(format!("\"{lengths}\" sums to more numbers than \"{all}\" has")))?;
        lists.push(list.to_vec());
        rest = after;
    }
    if !rest.is_empty() {
        return Err(malformed(format!(
            "\"{lengths}\" sums to fewer numbers than \"{all}\" has"
        )));
    }
    Ok(Some(lists))
}

fn folder(label: &str, files: &Array) -> Result<Folder> {
    let files = files
        .iter()
        .map(|file| Ok(Rc::new(JsSource::new(file)?) as Rc<dyn ByteSource>))
        .collect::<Result<_>>()?;
    Folder::new(label, files)
}

/// A JavaScript file: a `Blob`, or anything with a `read(start, end)` method.
struct JsSource {
    name: String,
    size: u64,
    object: JsValue,
    blob: Option<web_sys::Blob>,
}

impl JsSource {
    fn new(object: JsValue) -> Result<Self> {
        let name = text(&object, "name").unwrap_or_else(|| "file".into());
        let blob: Option<web_sys::Blob> = get(&object, "blob").dyn_into().ok();
        let size = blob
            .as_ref()
            .map_or_else(|| get(&object, "size").as_f64(), |blob| Some(blob.size()));
        let Some(size) = size.filter(|size| size.is_finite() && *size >= 0.0) else {
            return Err(Error::new(
                Code::ReadFailed,
                format!("a file without a size was given: {name}"),
            ));
        };
        Ok(Self {
            name,
            size: whole(size),
            object,
            blob,
        })
    }

    /// Lets the caller fill this module's memory: no array on the way that is made, copied and collected.
    ///
    /// # Errors
    /// What it throws; a `RangeError` for more than an address space holds.
    fn read_into(&self, function: &Function, range: &Range<u64>) -> std::result::Result<Vec<u8>, JsValue> {
        let length = usize::try_from(range.end - range.start)
            .map_err(|_| js_sys::RangeError::new("more than an address space holds"))?;
        let mut bytes = vec![0; length];
        let arguments = [
            (range.start as f64).into(),
            (range.end as f64).into(),
            // Not a view of it: memory that grows before the call would leave the view empty.
            wasm_bindgen::memory(),
            (bytes.as_mut_ptr() as usize as f64).into(),
        ];
        function.apply(&self.object, &Array::from_iter(arguments))?;
        Ok(bytes)
    }

    fn unreadable(&self, error: &JsValue) -> Error {
        let why = text(error, "message").unwrap_or_default();
        Error::new(
            Code::ReadFailed,
            format!(
                "the file cannot be read any more ({why}); choose it again: {}",
                self.name
            ),
        )
    }
}

#[async_trait(?Send)]
impl ByteSource for JsSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.size
    }

    async fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let failed = |error: JsValue| {
            let why = text(&error, "message").unwrap_or_default();
            // JavaScript could not make the array that the bytes were to come in.
            if error.is_instance_of::<js_sys::RangeError>() {
                let bytes = range.end - range.start;
                return Error::new(
                    Code::OutOfMemory,
                    format!(
                        "{bytes} bytes to be read at once do not fit into memory ({why}); close other programs: {}",
                        self.name
                    ),
                );
            }
            Error::new(
                Code::ReadFailed,
                format!(
                    "the file cannot be read any more ({why}); choose it again: {}",
                    self.name
                ),
            )
        };
        if range.end > self.size {
            return Err(Error::new(
                Code::FileTruncated,
                format!(
                    "the file has {} bytes, {} are needed; it is cut off, get it again: {}",
                    self.size, range.end, self.name
                ),
            ));
        }
        if let Ok(function) = get(&self.object, "readInto").dyn_into::<Function>() {
            return self.read_into(&function, &range).map_err(failed);
        }
        let (start, end) = (range.start as f64, range.end as f64);
        let promise = match &self.blob {
            Some(blob) => blob
                .slice_with_f64_and_f64(start, end)
                .map_err(failed)?
                .array_buffer(),
            None => {
                let read: Function = get(&self.object, "read").dyn_into().map_err(failed)?;
                let result = read
                    .call2(&self.object, &start.into(), &end.into())
                    .map_err(failed)?;
                Promise::resolve(&result)
            }
        };
        let bytes = Uint8Array::new(&JsFuture::from(promise).await.map_err(failed)?).to_vec();
        if bytes.len() as u64 != range.end - range.start {
            return Err(Error::new(
                Code::FileTruncated,
                format!(
                    "{} bytes came where {} were asked for; the file changed, choose it again: {}",
                    bytes.len(),
                    range.end - range.start,
                    self.name
                ),
            ));
        }
        Ok(bytes)
    }

    fn hashes(&self) -> bool {
        get(&self.object, "sha256").is_function()
    }

    async fn own_sha256(&self) -> Result<Option<String>> {
        let Ok(function) = get(&self.object, "sha256").dyn_into::<Function>() else {
            return Ok(None);
        };
        let hashed = match function.call0(&self.object) {
            Ok(promise) => JsFuture::from(Promise::resolve(&promise)).await,
            Err(error) => Err(error),
        };
        hashed
            .map(|hash| hash.as_string())
            .map_err(|error| self.unreadable(&error))
    }
}

/// The caller's observer: progress one way, cancellation the other, results out.
struct Listener {
    object: JsValue,
}

impl Listener {
    async fn call(&self, method: &str, arguments: &Array) -> std::result::Result<JsValue, JsValue> {
        let Ok(function) = get(&self.object, method).dyn_into::<Function>() else {
            return Ok(JsValue::UNDEFINED);
        };
        let result = function.apply(&self.object, arguments)?;
        JsFuture::from(Promise::resolve(&result)).await
    }
}

#[async_trait(?Send)]
impl progress::Observer for Listener {
    async fn progress(&self, progress: Progress) -> Result<()> {
        let event = to_js(&progress)?;
        let answer = self.call("progress", &Array::of1(&event)).await;
        // An observer that fails is a caller that is gone.
        let go_on = answer.is_ok_and(|value| value.as_bool().unwrap_or(true));
        if go_on {
            Ok(())
        } else {
            Err(Error::new(
                Code::Cancelled,
                "the work was cancelled; nothing was written",
            ))
        }
    }
}

#[async_trait(?Send)]
impl Sink for Listener {
    async fn write(&mut self, file: &str, bytes: &[u8]) -> Result<()> {
        let written = self
            .call("write", &Array::of2(&file.into(), &Uint8Array::from(bytes)))
            .await;
        written
            .map(|_| ())
            .map_err(|error| unwritable("the result cannot be written", &error, file))
    }

    async fn read(&mut self, file: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let (start, end) = (range.start as f64, range.end as f64);
        let arguments = Array::of3(&file.into(), &start.into(), &end.into());
        let read = self.call("read", &arguments).await;
        let bytes = read.and_then(JsCast::dyn_into::<Uint8Array>);
        bytes
            .map(|bytes| bytes.to_vec())
            .map_err(|error| unwritable("what was written cannot be read back", &error, file))
    }

    fn hashes(&self) -> bool {
        get(&self.object, "sha256").is_function()
    }

    async fn own_sha256(&mut self, file: &str) -> Result<String> {
        let hashed = self.call("sha256", &Array::of1(&file.into())).await;
        let hash = hashed.ok().and_then(|hash| hash.as_string());
        hash.ok_or_else(|| {
            Error::new(
                Code::WriteFailed,
                format!("what was written cannot be hashed: {file}"),
            )
        })
    }

    async fn remove(&mut self, file: &str) -> Result<()> {
        let removed = self.call("remove", &Array::of1(&file.into())).await;
        removed
            .map(|_| ())
            .map_err(|error| unwritable("a file cannot be removed", &error, file))
    }
}

/// Whoever asks a worker.
struct Asking(Listener);

#[async_trait(?Send)]
impl Questions for Asking {
    async fn next(&self) -> Result<Option<Vec<u8>>> {
        let next = self
            .0
            .call("next", &Array::new())
            .await
            .map_err(|error| thrown(&error))?;
        Ok(next.dyn_into::<Uint8Array>().ok().map(|bytes| bytes.to_vec()))
    }

    async fn answer(&self, answer: Vec<u8>) -> Result<()> {
        let bytes = Uint8Array::from(answer.as_slice());
        // It is large, and there is no need to hold it twice until somebody takes it.
        drop(answer);
        let answered = self.0.call("answer", &Array::of1(&bytes)).await;
        answered.map(|_| ()).map_err(|error| thrown(&error))
    }
}

/// The caller's other workers.
struct Team {
    object: JsValue,
}

impl Workers for Team {
    fn available(&self) -> Available {
        let number = |name: &str| get(&self.object, name).as_f64();
        let count = |number: f64| usize::try_from(whole(number)).unwrap_or(usize::MAX);
        match number("exactly") {
            Some(exactly) => Available::Exactly(count(exactly)),
            None => Available::UpTo {
                cores: number("cores").map_or(0, count),
                memory_bytes: number("memoryBytes"),
            },
        }
    }

    fn start(&self, count: usize) {
        if let Ok(function) = get(&self.object, "start").dyn_into::<Function>() {
            // What hinders a worker from starting is what its first answer fails with.
            let _ = function.call1(&self.object, &(count as f64).into());
        }
    }

    fn ask(&self, worker: usize, question: Vec<u8>) -> Answer {
        let asked = get(&self.object, "ask")
            .dyn_into::<Function>()
            .and_then(|function| {
                let question = Uint8Array::from(question.as_slice());
                function.call2(&self.object, &(worker as f64).into(), &question)
            });
        let answer = asked.map(|promise| JsFuture::from(Promise::resolve(&promise)));
        Box::pin(async move {
            let answered = match answer {
                Ok(answer) => answer.await,
                Err(error) => Err(error),
            };
            let bytes = answered.and_then(JsCast::dyn_into::<Uint8Array>);
            bytes.map(|bytes| bytes.to_vec()).map_err(|error| thrown(&error))
        })
    }
}

/// An error that this module, or another instance of it, gave to JavaScript.
fn thrown(error: &JsValue) -> Error {
    let code = text(error, "code").and_then(|code| Code::named(&code));
    let message = text(error, "message").unwrap_or_else(|| "a worker gave no answer".into());
    Error::new(code.unwrap_or(Code::Internal), message)
}

/// What the caller's place for results has told when it failed.
fn unwritable(what: &str, error: &JsValue, file: &str) -> Error {
    let why = text(error, "message").unwrap_or_default();
    Error::new(Code::WriteFailed, format!("{what} ({why}): {file}"))
}

fn to_js<T: Serialize>(value: &T) -> Result<JsValue> {
    let serializer = serde_wasm_bindgen::Serializer::json_compatible();
    value
        .serialize(&serializer)
        .map_err(|error| Error::new(Code::Internal, format!("a result cannot be handed over: {error}")))
}

/// A JavaScript `Error` with the stable `code`.
#[allow(clippy::needless_pass_by_value, reason = "`map_err` hands its error over")]
fn throw(error: Error) -> JsValue {
    let object = js_sys::Error::new(&error.to_string());
    // Setting a property of a fresh object cannot fail.
    let _ = Reflect::set(&object, &"code".into(), &error.code().as_str().into());
    object.into()
}
