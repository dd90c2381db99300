//! Streams.

use mlx_graft::stream::synchronize as synchronize_default;
use mlx_graft::{Device, Stream, ThreadLocalStream};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

use crate::bridge::{
    DeviceIn, Owned, StreamIn, StreamOrDevice, StreamOut, ThreadLocalStreamOut,
    thread_unsafe_stream, without_gil,
};
use crate::error::to_py;

/// `mlx.core`'s own `clear_streams`, which also forgets the random state that it keeps in Python.
static CLEAR_STREAMS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Adds the functions of this file to a Python module.
// The macro imports each function under a name of its own.
#[allow(clippy::unsafe_removed_from_name)]
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let clear = module.py().import("mlx.core")?.getattr("clear_streams")?;
    CLEAR_STREAMS.get_or_init(module.py(), || clear.unbind());
    module.add_function(wrap_pyfunction!(default_stream, module)?)?;
    module.add_function(wrap_pyfunction!(set_default_stream, module)?)?;
    module.add_function(wrap_pyfunction!(new_stream, module)?)?;
    module.add_function(wrap_pyfunction!(new_thread_unsafe_stream, module)?)?;
    module.add_function(wrap_pyfunction!(new_thread_local_stream, module)?)?;
    module.add_function(wrap_pyfunction!(clear_streams, module)?)?;
    module.add_function(wrap_pyfunction!(synchronize, module)?)?;
    module.add_function(wrap_pyfunction!(stream, module)?)?;
    module.add_class::<StreamContext>()
}

/// The default stream of a device on this thread.
#[pyfunction]
fn default_stream(device: DeviceIn) -> PyResult<StreamOut> {
    Stream::default_of(device.0).map(StreamOut).map_err(to_py)
}

/// Makes a stream the default one of its device on this thread; the default device stays.
#[pyfunction]
fn set_default_stream(stream: StreamIn) -> PyResult<()> {
    stream.0.set_default().map_err(to_py)
}

/// A new stream on a device, for this thread only.
#[pyfunction]
fn new_stream(device: DeviceIn) -> PyResult<StreamOut> {
    Stream::new(device.0).map(StreamOut).map_err(to_py)
}

/// A new stream on a device for any thread. Nothing keeps two threads from evaluating on it at
/// once, which is a race: that is the caller's to see to.
#[pyfunction]
fn new_thread_unsafe_stream(device: DeviceIn) -> PyResult<StreamOut> {
    thread_unsafe_stream(device.0).map_err(to_py)
}

/// A new stream on a device that is another one on every thread.
#[pyfunction]
fn new_thread_local_stream(device: DeviceIn) -> PyResult<ThreadLocalStreamOut> {
    ThreadLocalStream::new(device.0).map(ThreadLocalStreamOut).map_err(to_py)
}

/// Ends all streams of this thread, and forgets its random state and what was compiled on it.
#[pyfunction]
fn clear_streams(py: Python<'_>) -> PyResult<()> {
    mlx_graft::stream::clear_streams().map_err(to_py)?;
    if let Some(clear) = CLEAR_STREAMS.get(py) {
        clear.call0(py)?;
    }
    Ok(())
}

/// Waits until everything on a stream, or on the default stream of a device, is done; without one,
/// on the default stream of the default device.
#[pyfunction]
#[pyo3(signature = (stream=None))]
fn synchronize(py: Python<'_>, stream: Option<StreamOrDevice>) -> PyResult<()> {
    let stream = stream.map(StreamOrDevice::into_stream).transpose().map_err(to_py)?;
    without_gil(py, || match stream {
        Some(stream) => stream.synchronize(),
        None => synchronize_default(),
    })
    .map_err(to_py)
}

/// A context manager in which a stream, or the default stream of a device, is the default one, and
/// its device the default device.
#[pyfunction]
#[pyo3(signature = (s))]
fn stream(s: &Bound<'_, PyAny>) -> PyResult<StreamContext> {
    StreamContext::new(s)
}

/// What was the default before a context was entered.
struct Former {
    device: Device,
    stream: Stream,
}

impl Former {
    fn replace(stream: &Stream) -> mlx_graft::Result<Self> {
        let device = stream.device()?;
        let former =
            Self { device: Device::default_device()?, stream: Stream::default_of(device)? };
        device.set_default()?;
        stream.set_default()?;
        Ok(former)
    }

    fn restore(&self) -> mlx_graft::Result<()> {
        self.device.set_default()?;
        self.stream.set_default()
    }
}

/// A context manager that sets the default device and stream, made by `stream`.
#[pyclass(module = "mlx_graft.core")]
struct StreamContext {
    place: Py<PyAny>,
    former: Vec<Owned<Former>>,
}

#[pymethods]
impl StreamContext {
    #[new]
    #[pyo3(signature = (s))]
    fn new(s: &Bound<'_, PyAny>) -> PyResult<Self> {
        s.extract::<StreamOrDevice>()?;
        Ok(Self { place: s.clone().unbind(), former: Vec::new() })
    }

    fn __enter__(&mut self, py: Python<'_>) -> PyResult<()> {
        let stream = self.place.bind(py).extract::<StreamOrDevice>()?;
        let stream = stream.into_stream().map_err(to_py)?;
        let former = Former::replace(&stream).map_err(to_py)?;
        self.former.push(Owned::new("context of a stream", former));
        Ok(())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&mut self, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        match self.former.pop() {
            Some(former) => former.get()?.restore().map_err(to_py),
            None => Ok(()),
        }
    }
}
