//! Several processes that compute together, on one machine or on many.
//!
//! Every process calls [`init`] and then the same collective operations in the same order. They
//! are operations of the graph as others are: lazy, and with derivatives. `mlx.launch` starts the
//! processes; without it, the backend `ring` reads its rank from the environment variable
//! `MLX_RANK` and the addresses of all ranks from the JSON file that `MLX_HOSTFILE` names, for two
//! processes on one machine `[["127.0.0.1:5000"], ["127.0.0.1:5001"]]`.
//!
//! The backend chooses the device on which a group communicates: `ring`, `mpi` and `jaccl` the CPU,
//! `nccl` the GPU. What a backend cannot do fails when it is evaluated: `ring` has no
//! [`sum_scatter`], and sends to neighbours only.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::slice;

use crate::handles::Live;
use crate::{Array, Dtype, Error, Result, call, error, stream, sys};

/// The ways to communicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Backend {
    /// The first that works of those below.
    #[default]
    Any,
    /// TCP sockets, from each rank to the next.
    Ring,
    /// An installed MPI.
    Mpi,
    /// NVIDIA's library, between CUDA devices.
    Nccl,
    /// RDMA over Thunderbolt, on Macs.
    Jaccl,
}

impl Backend {
    /// All, with their names.
    pub const ALL: &[(Self, &str)] = &[
        (Self::Any, "any"),
        (Self::Ring, "ring"),
        (Self::Mpi, "mpi"),
        (Self::Nccl, "nccl"),
        (Self::Jaccl, "jaccl"),
    ];

    /// The backend of a name in `mlx.core.distributed`.
    ///
    /// ```
    /// use mlx_graft::distributed::Backend;
    ///
    /// assert_eq!(Backend::from_name("ring"), Some(Backend::Ring));
    /// assert_eq!(Backend::from_name("pigeons"), None);
    /// ```
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(backend, _)| *backend)
    }

    fn as_c_str(self) -> &'static CStr {
        match self {
            Self::Any => c"any",
            Self::Ring => c"ring",
            Self::Mpi => c"mpi",
            Self::Nccl => c"nccl",
            Self::Jaccl => c"jaccl",
        }
    }

    /// Whether MLX was built with the backend and finds what it needs; for [`Backend::Any`],
    /// whether there is one of them. A group may still be impossible: [`init`] tells.
    ///
    /// ```
    /// use mlx_graft::distributed::Backend;
    ///
    /// assert_eq!(Backend::Nccl.is_available(), mlx_graft::cuda::is_available()?);
    /// # Ok::<(), mlx_graft::Error>(())
    /// ```
    pub fn is_available(self) -> bool {
        call::ready();
        // SAFETY: the name is a C string of the program.
        unsafe { sys::mlx_distributed_is_available(self.as_c_str().as_ptr()) }
    }
}

/// Processes that communicate.
pub struct Group {
    raw: sys::mlx_distributed_group,
    _live: Live,
}

impl Group {
    /// The number of this process in the group.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn rank(&self) -> Result<usize> {
        // SAFETY: the handle is live.
        Self::number("rank", || unsafe { sys::mlx_distributed_group_rank(self.raw) })
    }

    /// How many processes there are in the group.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn size(&self) -> Result<usize> {
        // SAFETY: the handle is live.
        Self::number("size", || unsafe { sys::mlx_distributed_group_size(self.raw) })
    }

    /// The group of the processes that give the same `color`, in the order of their `key`, or of
    /// their ranks here without one.
    ///
    /// # Errors
    /// The backend cannot split a group; `ring` cannot, nor can there be fewer than one process.
    pub fn split(&self, color: i32, key: Option<u16>) -> Result<Self> {
        let key = key.map_or(-1, i32::from);
        let mut res = Self::null();
        call::status("split", || {
            // SAFETY: our handle is live; the call fills a null one.
            unsafe { sys::mlx_distributed_group_split(&raw mut res.raw, self.raw, color, key) }
        })?;
        Ok(res)
    }

    /// mlx-c returns the number itself, and 0 for a failure, which then has left its text.
    fn number(op: &'static str, f: impl FnOnce() -> c_int) -> Result<usize> {
        let mut number = 0;
        call::status(op, || {
            error::clear();
            number = f();
            c_int::from(error::is_pending())
        })?;
        Ok(usize::try_from(number).unwrap_or(0))
    }

    fn null() -> Self {
        call::ready();
        // SAFETY: makes a null handle.
        unsafe { Self::from_raw(sys::mlx_distributed_group_new()) }
    }

    /// Takes over a handle.
    ///
    /// # Safety
    /// `raw` is null or a handle that nobody else frees.
    pub(crate) unsafe fn from_raw(raw: sys::mlx_distributed_group) -> Self {
        Self { raw, _live: Live::new() }
    }

    pub(crate) fn as_raw(&self) -> sys::mlx_distributed_group {
        self.raw
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.raw.ctx.is_null() {
            // SAFETY: frees the handle we own, once.
            unsafe { sys::mlx_distributed_group_free(self.raw) };
        }
    }
}

/// The group of all processes. The first call connects them, later ones give the same group.
///
/// Without `strict`, a backend that cannot start gives a group of this process alone, in which
/// collective operations do nothing.
///
/// # Errors
/// With `strict`, the backend cannot start.
///
/// ```
/// use mlx_graft::{Array, distributed::{self, Backend}};
///
/// let group = distributed::init(false, Backend::Any)?;
/// let x = Array::scalar(3.0_f32)?;
/// if group.size()? == 1 {
///     assert_eq!(distributed::all_sum(&x, Some(&group))?.item::<f32>()?, 3.0);
/// }
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn init(strict: bool, backend: Backend) -> Result<Group> {
    let mut res = Group::null();
    call::status("distributed::init", || {
        // SAFETY: the name is a C string of the program; the call fills a null handle.
        unsafe { sys::mlx_distributed_init(&raw mut res.raw, strict, backend.as_c_str().as_ptr()) }
    })?;
    Ok(res)
}

/// As [`init`] for [`Backend::Jaccl`], with another way for the processes to find each other.
///
/// `all_gather` gets the bytes of this process, its rank and the number of processes, and returns
/// those of all, in the order of the ranks.
///
/// # Errors
/// The backend cannot start, or the error of `all_gather`.
///
/// ```
/// use mlx_graft::distributed::{self, Backend};
///
/// let group = distributed::init_jaccl(false, |bytes, _rank, size| Ok(bytes.repeat(size)))?;
/// assert!(Backend::Jaccl.is_available() || group.size()? == 1);
/// # Ok::<(), mlx_graft::Error>(())
/// ```
pub fn init_jaccl<F>(strict: bool, all_gather: F) -> Result<Group>
where
    F: Fn(&[u8], usize, usize) -> Result<Vec<u8>> + Send + Sync + 'static,
{
    let mut res = Group::null();
    call::status("distributed::init", || {
        let payload: *mut c_void = Box::into_raw(Box::new(all_gather)).cast();
        // SAFETY: the callbacks match the payload's type; C++ calls the destructor once.
        unsafe {
            sys::graft_distributed_init_jaccl(
                &raw mut res.raw,
                strict,
                Some(gather::<F>),
                payload,
                Some(drop_payload::<F>),
            )
        }
    })?;
    Ok(res)
}

unsafe extern "C" fn gather<F>(
    src: *const c_char,
    dst: *mut c_char,
    n_bytes: usize,
    rank: c_int,
    size: c_int,
    payload: *mut c_void,
) -> c_int
where
    F: Fn(&[u8], usize, usize) -> Result<Vec<u8>> + Send + Sync + 'static,
{
    error::guarded(|| {
        let number = |n: c_int| usize::try_from(n).unwrap_or(0);
        let total = n_bytes * number(size);
        // SAFETY: `payload` is the box of `init_jaccl`, which C++ keeps while it can call, and
        // `src` holds `n_bytes` bytes.
        let all = unsafe {
            let all_gather = &*payload.cast::<F>();
            let own = slice::from_raw_parts(src.cast::<u8>(), n_bytes);
            all_gather(own, number(rank), number(size))?
        };
        if all.len() != total {
            let message = format!("all_gather gave {} bytes instead of {total}", all.len());
            return Err(Error::invalid_argument("distributed::init", message));
        }
        // SAFETY: `dst` has room for the bytes of all ranks, and cannot overlap our vector.
        unsafe { dst.cast::<u8>().copy_from_nonoverlapping(all.as_ptr(), total) };
        Ok(())
    })
}

unsafe extern "C" fn drop_payload<F>(payload: *mut c_void) {
    // A destructor runs inside C++ and must not unwind into it.
    let _ = error::guarded(|| {
        // SAFETY: C++ gives back the box of `init_jaccl`, once.
        drop(unsafe { Box::from_raw(payload.cast::<F>()) });
        Ok(())
    });
}

/// The group as mlx-c takes it, and the stream to communicate on: the one that the scope names, or
/// the one that the group's backend chooses.
fn communicate(
    op: &'static str,
    group: Option<&Group>,
    f: impl FnOnce(*mut sys::mlx_array, sys::mlx_distributed_group, sys::mlx_stream) -> c_int,
) -> Result<Array> {
    let group = group.map_or(sys::mlx_distributed_group { ctx: null_mut() }, Group::as_raw);
    let chosen = if stream::explicit().is_none() {
        // SAFETY: the group is null or live; the call fills a null handle.
        Some(stream::Stream::filled(op, |res| unsafe {
            sys::graft_distributed_stream(res, group)
        })?)
    } else {
        None
    };
    let run = || call::array(op, |res, s| f(res, group, s));
    match &chosen {
        Some(stream) => stream::on_stream(stream, run),
        None => run(),
    }
}

macro_rules! collectives {
    ($($(#[$doc:meta])* $name:ident $raw:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(x: &Array, group: Option<&Group>) -> Result<Array> {
            communicate(stringify!($name), group, |res, group, s| {
                // SAFETY: all handles are live or null where that is allowed.
                unsafe { sys::$raw(res, x.as_raw(), group, s) }
            })
        }
    )*};
}

collectives! {
    /// The sum of the arrays of all processes.
    ///
    /// Shape and dtype of `x`, which all processes have in common. Without a group, that of
    /// [`init`] is taken.
    ///
    /// # Errors
    /// What MLX reports.
    all_sum mlx_distributed_all_sum;

    /// The greatest elements of the arrays of all processes.
    ///
    /// Shape and dtype of `x`, which all processes have in common.
    ///
    /// # Errors
    /// What MLX reports.
    all_max mlx_distributed_all_max;

    /// The least elements of the arrays of all processes.
    ///
    /// Shape and dtype of `x`, which all processes have in common.
    ///
    /// # Errors
    /// What MLX reports.
    all_min mlx_distributed_all_min;

    /// The arrays of all processes, one after the other along the first axis.
    ///
    /// The shape of `x`, which all processes have in common, with the first length times the size
    /// of the group; a scalar gives a vector.
    ///
    /// # Errors
    /// What MLX reports.
    all_gather mlx_distributed_all_gather;

    /// This process's part, along the first axis, of the sum of the arrays of all processes.
    ///
    /// The shape of `x`, which all processes have in common, with the first length divided by the
    /// size of the group.
    ///
    /// # Errors
    /// The size of the group does not divide the first length. When evaluated, the backend cannot
    /// do it; only `nccl` can.
    sum_scatter mlx_distributed_sum_scatter;
}

/// Sends an array to the process of rank `dst` when the result, `x` itself, is evaluated.
///
/// # Errors
/// There is no such rank, or none but this one. When evaluated: the rank is no neighbour and the
/// backend is `ring`.
pub fn send(x: &Array, dst: i32, group: Option<&Group>) -> Result<Array> {
    communicate("send", group, |res, group, s| {
        // SAFETY: all handles are live or null where that is allowed.
        unsafe { sys::mlx_distributed_send(res, x.as_raw(), dst, group, s) }
    })
}

/// The array of this shape and dtype that the process of rank `src` sends.
///
/// # Errors
/// There is no such rank, or none but this one. When evaluated: the rank is no neighbour and the
/// backend is `ring`.
pub fn recv(shape: &[i32], dtype: Dtype, src: i32, group: Option<&Group>) -> Result<Array> {
    let data = if shape.is_empty() { null() } else { shape.as_ptr() };
    communicate("recv", group, |res, group, s| {
        // SAFETY: all handles are live or null where that is allowed; the shape is a slice.
        unsafe { sys::mlx_distributed_recv(res, data, shape.len(), dtype.as_raw(), src, group, s) }
    })
}

/// As [`recv`], with the shape and the dtype of `x`.
///
/// # Errors
/// As [`recv`].
pub fn recv_like(x: &Array, src: i32, group: Option<&Group>) -> Result<Array> {
    communicate("recv_like", group, |res, group, s| {
        // SAFETY: all handles are live or null where that is allowed.
        unsafe { sys::mlx_distributed_recv_like(res, x.as_raw(), src, group, s) }
    })
}
