//! What the machine reaches at most, measured.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use mlx_graft::stream::current_device;
use mlx_graft::{Array, DeviceType, Dtype, ops, random, transforms};
use serde::Serialize;

use crate::Result;
use crate::trainer::available_bytes;

/// Bytes of memory to read: more than the caches hold.
const MEMORY: usize = 512 << 20;
const LONGEST: Duration = Duration::from_secs(1);

/// The speeds that others are shares of.
#[derive(Debug, Clone, Serialize)]
pub struct Limits {
    /// Products of large square matrices, by dtype: operations in a second.
    pub flops_per_second: BTreeMap<String, f64>,
    /// Reads of memory: bytes in a second.
    pub bytes_per_second: f64,
}

impl Limits {
    /// Measures them on the device in scope: the best of some turns.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn measure(dtypes: &BTreeSet<String>) -> Result<Self> {
        let mut flops_per_second = BTreeMap::new();
        for dtype in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
            if dtypes.contains(&dtype.to_string()) {
                flops_per_second.insert(dtype.to_string(), products(dtype)?);
            }
        }
        Ok(Self { flops_per_second, bytes_per_second: memory()? })
    }

    /// The seconds that work takes at least: the longer one of its computation, on numbers of a
    /// dtype, and of its memory.
    pub fn least_seconds(&self, flops: Option<(u64, &str)>, bytes: u64) -> f64 {
        let computing = flops.and_then(|(flops, dtype)| {
            let limit = self.flops_per_second.get(dtype)?;
            Some(flops as f64 / limit)
        });
        computing.unwrap_or(0.0).max(bytes as f64 / self.bytes_per_second)
    }
}

/// The shortest of up to ten turns after one to warm up.
fn shortest(mut turn: impl FnMut() -> Result<()>) -> Result<f64> {
    turn()?;
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    for _ in 0..10 {
        let start = Instant::now();
        turn()?;
        best = best.min(start.elapsed().as_secs_f64());
        if begin.elapsed() > LONGEST {
            break;
        }
    }
    Ok(best)
}

/// Whether operations in this scope run on the processor.
pub(crate) fn on_processor() -> Result<bool> {
    Ok(current_device()?.kind == DeviceType::Cpu)
}

fn products(dtype: Dtype) -> Result<f64> {
    let size = match (on_processor()?, graft_kernels::is_active()?) {
        (false, _) => 4096,
        (true, true) => 2048,
        // MLX's own loops would take minutes for more.
        (true, false) => 256,
    };
    let options = random::LocScaleOptions::default();
    let key = random::key(0)?;
    let a = ops::astype(&random::normal(&[size, size], &options.key(&key))?, dtype)?;
    a.eval()?;
    let seconds = shortest(|| Ok(graft_kernels::matmul(&a, &a)?.eval()?))?;
    Ok(2.0 * f64::from(size).powi(3) / seconds)
}

fn memory() -> Result<f64> {
    let room =
        available_bytes().map_or(MEMORY, |bytes| usize::try_from(bytes / 4).unwrap_or(MEMORY));
    let count = MEMORY.min(room) / 4;
    let seconds = if on_processor()? {
        // The host's: MLX's sum runs on one core.
        let numbers = vec![1.0_f32; count];
        shortest(|| {
            graft_kernels::limits::read(&numbers);
            Ok(())
        })?
    } else {
        let numbers: Array = ops::ones(&[count as i32], Dtype::Float32)?;
        numbers.eval()?;
        shortest(|| Ok(transforms::eval(&[ops::sum(&numbers, false)?])?))?
    };
    Ok(4.0 * count as f64 / seconds)
}
