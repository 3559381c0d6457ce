//! Which device a job runs on where that is left open: the one that is quicker for it, by what is measured of both.

use std::cell::{Cell, OnceCell};

use crate::{
    compute::{Compute, GpuRates, WEBGPU},
    error::Result,
    jobs::estimate::ModelWork,
    merge::cost::Rates,
    model::Model,
    progress::{Observer, Progress},
};

/// Where a job may run.
#[derive(Clone, Copy)]
pub enum Devices<'a> {
    /// On this device.
    Given(&'a Compute),
    /// On whichever is quicker.
    Quicker(Candidates<'a>),
}

/// The CPU and a GPU.
#[derive(Clone, Copy)]
pub struct Candidates<'a> {
    /// The CPU.
    pub cpu: &'a Compute,
    /// The GPU.
    pub gpu: &'a Compute,
    /// What it is called.
    pub gpu_name: &'a str,
    /// What they do, measured by the first job that asks.
    pub measured: &'a OnceCell<Measured>,
}

/// What was measured of both.
#[derive(Debug)]
pub struct Measured {
    cpu: Rates,
    gpu: GpuRates,
    /// Whether a job has run on the GPU, so that its kernels are compiled.
    compiled: Cell<bool>,
}

/// Where a job runs.
pub(super) struct Choice<'a> {
    pub(super) compute: &'a Compute,
    /// Why there, where that was left open: a sentence.
    pub(super) why: Option<String>,
}

/// Where a job has run, as its caller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// `cpu` or `webgpu`.
    pub device: &'static str,
    /// Why there, where that was left open.
    pub why: Option<String>,
}

impl Choice<'_> {
    /// Has the device compile its kernels for `model` while weights are read, if it has any to compile. `sums`: those of
    /// sums over samples too.
    ///
    /// # Errors
    /// Cancellation.
    pub(super) async fn compile(&self, model: &Model, sums: bool, observer: &dyn Observer) -> Result<()> {
        if self.compute.name() != WEBGPU.name {
            return Ok(());
        }
        let seconds = self.compute.meter.elapsed();
        let compiling = Progress::single("compile", "kernels of the GPU", seconds);
        observer.progress(compiling).await?;
        let facts = model.family.facts();
        // Where heads have another width, theirs is compiled when it is met.
        self.compute.compile(facts.hidden_size / facts.heads.max(1), sums);
        Ok(())
    }

    /// The same for the job's caller.
    pub(super) fn told(self) -> Chosen {
        Chosen {
            device: self.compute.name(),
            why: self.why,
        }
    }
}

/// Seconds that the CPU's kernels are measured for.
const CPU_SECONDS: f64 = 0.05;

impl<'a> From<&'a Compute> for Devices<'a> {
    fn from(compute: &'a Compute) -> Self {
        Self::Given(compute)
    }
}

impl<'a> Devices<'a> {
    /// Where a job runs that runs no model: a GPU has no part in it.
    pub(super) const fn without_model(&self) -> &'a Compute {
        match self {
            Self::Given(compute) => compute,
            Self::Quicker(candidates) => candidates.cpu,
        }
    }

    /// Where `work` is done sooner. `check` refuses a device that cannot hold it; `observer` is told that both are measured.
    ///
    /// # Errors
    /// What `check` says of the CPU, or of the device that was asked for, and cancellation.
    pub(super) async fn choose(
        &self,
        work: &ModelWork,
        check: impl Fn(&Compute) -> Result<()>,
        observer: &dyn Observer,
    ) -> Result<Choice<'a>> {
        let choice = match self {
            Self::Given(compute) => Choice { compute, why: None },
            Self::Quicker(candidates) => candidates.quicker(work, &check, observer).await?,
        };
        check(choice.compute)?;
        Ok(choice)
    }
}

impl<'a> Candidates<'a> {
    fn cpu_because(&self, why: String) -> Choice<'a> {
        Choice {
            compute: self.cpu,
            why: Some(why),
        }
    }

    async fn quicker(
        &self,
        work: &ModelWork,
        check: impl Fn(&Compute) -> Result<()>,
        observer: &dyn Observer,
    ) -> Result<Choice<'a>> {
        let name = self.gpu_name;
        if let Err(refused) = check(self.gpu) {
            return Ok(self.cpu_because(format!("The CPU, because {name} cannot hold this: {refused}.")));
        }
        let measured = match self.measured.get() {
            Some(measured) => measured,
            None => match self.measure(observer).await? {
                Ok(measured) => self.measured.get_or_init(|| measured),
                Err(failed) => {
                    let why = format!("The CPU, because {name} could not be measured: {failed}.");
                    return Ok(self.cpu_because(why));
                }
            },
        };
        Ok(measured.verdict(work, 1 + work.workers(self.cpu), self))
    }

    /// What both do, or why the GPU cannot be measured.
    async fn measure(&self, observer: &dyn Observer) -> Result<Result<Measured>> {
        let seconds = self.cpu.meter.elapsed();
        let measuring = Progress::single("measure", "speed of the CPU and the GPU", seconds);
        observer.progress(measuring).await?;
        Ok(GpuRates::measure(self.gpu).await.map(|gpu| Measured {
            cpu: Rates::measure(CPU_SECONDS),
            gpu,
            compiled: Cell::new(false),
        }))
    }
}

impl Measured {
    fn verdict<'a>(&self, work: &ModelWork, workers: usize, candidates: &Candidates<'a>) -> Choice<'a> {
        let on_cpu = work.on_cpu(&self.cpu, workers);
        let on_gpu = work.on_gpu(&self.gpu, &self.cpu, self.compiled.get());
        let cores = match workers {
            1 => "one core".to_owned(),
            _ => format!("{workers} cores"),
        };
        let name = candidates.gpu_name;
        let [on_core, on_device] =
            [self.cpu.f32_products, self.gpu.products].map(|rate| format!("{:.0} GFLOP/s", rate / 1e9));
        let measured = format!(
            "measured: {on_core} in products on a core, {on_device} on the GPU, {:.1} ms to read back from it",
            1e3 * self.gpu.readback
        );
        let [cpu, gpu] = [on_cpu, on_gpu].map(about);
        if on_gpu < on_cpu {
            self.compiled.set(true);
            Choice {
                compute: candidates.gpu,
                why: Some(format!(
                    "The GPU ({name}): {gpu} for this there, {cpu} on {cores} ({measured})."
                )),
            }
        } else {
            candidates.cpu_because(format!(
                "The CPU: {cpu} for this on {cores}, {gpu} on the GPU ({name}; {measured})."
            ))
        }
    }
}

/// Seconds as an estimate is told.
fn about(seconds: f64) -> String {
    if seconds < 10.0 {
        format!("about {seconds:.1} s")
    } else {
        format!("about {seconds:.0} s")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, OnceCell};

    use burn::tensor::Device;

    use super::{Candidates, Devices, Measured};
    use crate::{
        compute::{Available, Compute, GpuRates, WEBGPU},
        error::{Code, Error, Result},
        jobs::estimate::ModelWork,
        merge::cost::Rates,
        progress::Silent,
    };

    const FITS: fn(&Compute) -> Result<()> = |_| Ok(());

    fn measured(readback: f64) -> OnceCell<Measured> {
        let measured = OnceCell::new();
        let rates = Measured {
            cpu: Rates {
                f32_products: 40e9,
                f64_products: 20e9,
                numbers: 1e9,
            },
            gpu: GpuRates {
                products: 4e12,
                readback,
                pipeline: 0.05,
            },
            compiled: Cell::new(false),
        };
        measured.set(rates).unwrap();
        measured
    }

    /// What is chosen for `work` between a CPU and a GPU of those rates: its name, and why.
    fn chosen(
        work: &ModelWork,
        measured: &OnceCell<Measured>,
        check: impl Fn(&Compute) -> Result<()>,
    ) -> Result<(&'static str, String)> {
        let cpu = Compute::cpu();
        let gpu = Compute::tensors(Device::flex(), WEBGPU.name);
        let devices = Devices::Quicker(Candidates {
            cpu: &cpu,
            gpu: &gpu,
            gpu_name: "nvidia ampere",
            measured,
        });
        let choice = pollster::block_on(devices.choose(work, check, &Silent))?;
        Ok((choice.compute.name(), choice.why.unwrap()))
    }

    fn work(forward: f64) -> ModelWork {
        ModelWork {
            forward,
            readbacks: 100.0,
            pieces: 10,
            ..ModelWork::default()
        }
    }

    #[test]
    fn small_work_stays_on_the_cpu_and_large_work_goes_to_the_gpu() {
        let (device, why) = chosen(&work(4e9), &measured(0.004), FITS).unwrap();
        assert_eq!(device, "cpu");
        assert_eq!(
            why,
            "The CPU: about 0.1 s for this on one core, about 1.9 s on the GPU (nvidia ampere; measured: 40 GFLOP/s in products on a core, 4000 GFLOP/s on the GPU, 4.0 ms to read back from it)."
        );
        let (device, why) = chosen(&work(4e12), &measured(0.004), FITS).unwrap();
        assert_eq!(device, "webgpu");
        assert!(
            why.starts_with("The GPU (nvidia ampere): about 2.9 s for this there, about 100 s on one core"),
            "{why}"
        );
    }

    #[test]
    fn slow_readbacks_and_kernels_not_yet_compiled_speak_for_the_cpu() {
        // 2 s on the CPU; on the GPU 0.02 s of products, 1.5 of compiling and 100 readbacks.
        assert_eq!(chosen(&work(80e9), &measured(0.04), FITS).unwrap().0, "cpu");
        let ready = measured(0.004);
        assert_eq!(chosen(&work(80e9), &ready, FITS).unwrap().0, "webgpu");
        // 1 s on the CPU: less than compiling takes, which is done by now.
        assert_eq!(chosen(&work(40e9), &ready, FITS).unwrap().0, "webgpu");
        assert_eq!(chosen(&work(40e9), &measured(0.004), FITS).unwrap().0, "cpu");
    }

    #[test]
    fn more_cores_speak_for_the_cpu() {
        struct Seven;
        impl crate::compute::Workers for Seven {
            fn available(&self) -> Available {
                Available::UpTo {
                    cores: 7,
                    memory_bytes: None,
                }
            }
            fn start(&self, _: usize) {}
            fn ask(&self, _: usize, _: Vec<u8>) -> crate::compute::Answer {
                Box::pin(async { Ok(Vec::new()) })
            }
        }
        // 10 s on one core, 1.6 s on the GPU with what it compiles, 1.5 s on eight cores.
        let heavy = ModelWork {
            readbacks: 0.0,
            ..work(400e9)
        };
        let measured = measured(0.0);
        let gpu = Compute::tensors(Device::flex(), WEBGPU.name);
        let choose = |cpu: &Compute| {
            let devices = Devices::Quicker(Candidates {
                cpu,
                gpu: &gpu,
                gpu_name: "a GPU",
                measured: &measured,
            });
            pollster::block_on(devices.choose(&heavy, FITS, &Silent))
                .unwrap()
                .compute
                .name()
        };
        assert_eq!(
            choose(&Compute::cpu().with_workers(std::rc::Rc::new(Seven))),
            "cpu"
        );
        assert_eq!(choose(&Compute::cpu()), "webgpu");
    }

    #[test]
    fn a_gpu_that_cannot_hold_it_is_not_taken_and_a_cpu_that_cannot_is_an_error() {
        let refuses = |name: &'static str| {
            move |compute: &Compute| {
                if compute.name() == name {
                    return Err(Error::new(Code::DeviceLimit, "a layer needs 300 MiB, 128 there"));
                }
                Ok(())
            }
        };
        let (device, why) = chosen(&work(4e12), &measured(0.004), refuses("webgpu")).unwrap();
        assert_eq!(device, "cpu");
        assert!(
            why.contains("nvidia ampere cannot hold this") && why.contains("300 MiB"),
            "{why}"
        );
        let refused = chosen(&work(4e9), &measured(0.004), refuses("cpu")).unwrap_err();
        assert_eq!(refused.code(), Code::DeviceLimit);
    }

    #[test]
    fn what_is_not_measured_yet_is_measured_once() {
        let measured = OnceCell::new();
        // The stand-in for a GPU is slower than the CPU's own kernels, or as quick, and is compiled besides.
        let (device, why) = chosen(&work(4e9), &measured, FITS).unwrap();
        assert!(why.contains("GFLOP/s in products on a core"), "{why}");
        assert_eq!(device, "cpu");
        assert!(measured.get().is_some());
    }
}
