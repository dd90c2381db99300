//! What is outside of MLX: streams of bytes that fail, other processes, and kernels of a GPU.

use std::io::{Cursor, Error as IoError, Read, Seek, SeekFrom, Write};

use mlx_graft::distributed::{self, Backend};
use mlx_graft::fast::kernel::{
    CudaKernel, KernelSource, Launch, MetalKernel, PrecompiledCudaKernel, ScalarArg,
};
use mlx_graft::{Array, Dtype, Result, cuda, io, metal};

use super::{Round, x};

pub const ROUNDS: &[Round] = &[
    ("readers that fail", failing_readers),
    ("writers that fail", failing_writers),
    ("distributed groups", groups),
    ("kernels of a GPU", kernels),
];

/// A reader that fails in the middle of the data does so in a kernel.
pub const FAILING: &[Round] = &[("readers that fail late", late_readers)];

/// A stream that fails once so many bytes have passed.
struct Failing<S> {
    stream: S,
    left: usize,
}

impl<S> Failing<S> {
    fn pass(&mut self, length: usize) -> std::io::Result<()> {
        self.left = self.left.checked_sub(length).ok_or_else(|| IoError::other("as planned"))?;
        Ok(())
    }
}

impl<S: Read> Read for Failing<S> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.pass(buffer.len())?;
        self.stream.read(buffer)
    }
}

impl<S: Seek> Seek for Failing<S> {
    fn seek(&mut self, position: SeekFrom) -> std::io::Result<u64> {
        self.stream.seek(position)
    }
}

impl<S: Write> Write for Failing<S> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.pass(buffer.len())?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

fn npy() -> Result<Vec<u8>> {
    let mut content = Vec::new();
    io::save_to(&mut content, &x()?)?;
    Ok(content)
}

fn failing_readers() -> Result<()> {
    let mut safetensors = Vec::new();
    io::save_safetensors_to(&mut safetensors, [("x", &x()?)], [("key", "value")])?;
    for left in [0, 4, 9] {
        let stream = |content: Vec<u8>| Failing { stream: Cursor::new(content), left };
        assert!(io::load_from(stream(npy()?)).is_err());
        assert!(io::load_safetensors_from(stream(safetensors.clone())).is_err());
    }
    Ok(())
}

fn late_readers() -> Result<()> {
    let content = npy()?;
    let left = content.len() - 4;
    let loaded = io::load_from(Failing { stream: Cursor::new(content), left })?;
    assert!(loaded.eval().is_err());
    Ok(())
}

fn failing_writers() -> Result<()> {
    let x = x()?;
    for left in [0, 4, 200] {
        let mut stream = Failing { stream: Vec::new(), left };
        assert!(io::save_to(&mut stream, &x).is_err());
        let mut stream = Failing { stream: Vec::new(), left };
        assert!(io::save_safetensors_to(&mut stream, [("x", &x)], [("", ""); 0]).is_err());
    }
    Ok(())
}

fn groups() -> Result<()> {
    let (x, group) = (x()?, distributed::init(false, Backend::Any)?);
    assert_eq!((group.rank()?, group.size()?), (0, 1));
    distributed::all_sum(&x, Some(&group))?.eval()?;
    assert!(distributed::send(&x, 0, Some(&group)).is_err());
    assert!(distributed::recv_like(&x, 0, Some(&group)).is_err());
    assert!(group.split(0, None).is_err());
    Ok(())
}

/// A kernel and its launch are objects anywhere; where the device is absent, running it fails.
#[allow(unsafe_code)]
fn kernels() -> Result<()> {
    let x = x()?;
    let source = KernelSource {
        name: "copy",
        inputs: &["x"],
        outputs: &["out"],
        source: "out[0] = x[0];",
        ..KernelSource::default()
    };
    let launch = Launch::new([1, 1, 1], [1, 1, 1])
        .output(&[1], Dtype::Float32)
        .template("T", Dtype::Float32)
        .template("N", 1)
        .init_value(0.0);
    let run = |found: Result<Vec<Array>>, available: bool| {
        assert_eq!(found.is_ok(), available);
    };
    let kernel = MetalKernel::new(&source, false)?;
    // SAFETY: one thread reads and writes the first element; here, and below.
    run(unsafe { kernel.apply(&[&x], &launch) }, metal::is_available()?);
    assert!(MetalKernel::new(&KernelSource { name: "a\0b", ..source }, false).is_err());
    // SAFETY: as above.
    let built =
        CudaKernel::new(&source, 0).and_then(|kernel| unsafe { kernel.apply(&[&x], &launch) });
    run(built, cuda::is_available()?);
    let compiled = PrecompiledCudaKernel {
        name: "copy",
        compiled: b"no cubin",
        shared_memory: 0,
        ensure_row_contiguous: false,
    };
    if !cuda::is_available()? {
        // SAFETY: there is no device on which it could run.
        assert!(unsafe { compiled.apply(&[&x], &[ScalarArg::Int(1)], &launch) }.is_err());
    }
    Ok(())
}
