//! Collective operations: of two processes over the backend `ring`, and of one alone.
//!
//! The test starts this program twice as its own worker, with a rank each.

use std::env;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use mlx_graft::distributed::{self, Backend, Group};
use mlx_graft::{Array, Device, Dtype, ErrorKind, Stream, bf16, live_handles, ops, stream};

/// Ports that were free a moment ago.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

#[test]
fn two_processes_compute_together() {
    let [first, second] = free_ports();
    let hosts = env::temp_dir().join(format!("mlx-graft-ring-{}.json", std::process::id()));
    let text = format!("[[\"127.0.0.1:{first}\"], [\"127.0.0.1:{second}\"]]");
    std::fs::write(&hosts, text).unwrap();
    let workers = ["0", "1"].map(|rank| {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "worker", "--ignored", "--nocapture"])
            .env("MLX_RANK", rank)
            .env("MLX_HOSTFILE", &hosts)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    });
    for worker in workers {
        let output = worker.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
    }
    std::fs::remove_file(&hosts).unwrap();
}

#[test]
#[ignore = "runs in the processes that `two_processes_compute_together` starts"]
fn worker() {
    let group = distributed::init(true, Backend::Ring).unwrap();
    let rank = group.rank().unwrap();
    assert_eq!(group.size().unwrap(), 2);
    assert_eq!(rank.to_string(), env::var("MLX_RANK").unwrap());
    let again = distributed::init(false, Backend::Any).unwrap();
    assert_eq!((again.rank().unwrap(), again.size().unwrap()), (rank, 2));

    let own = if rank == 0 { [1.0_f32, -2.0, 3.0] } else { [10.0, 20.0, -30.0] };
    let x = Array::from_slice(&own, &[3]).unwrap();
    for group in [None, Some(&group)] {
        let floats = |array: Array| array.to_vec::<f32>().unwrap();
        assert_eq!(floats(distributed::all_sum(&x, group).unwrap()), [11.0, 18.0, -27.0]);
        assert_eq!(floats(distributed::all_max(&x, group).unwrap()), [10.0, 20.0, 3.0]);
        assert_eq!(floats(distributed::all_min(&x, group).unwrap()), [1.0, -2.0, -30.0]);
        assert_eq!(
            floats(distributed::all_gather(&x, group).unwrap()),
            [1.0, -2.0, 3.0, 10.0, 20.0, -30.0]
        );
    }
    every_dtype(&group);

    let scalar = Array::scalar(i32::try_from(rank).unwrap()).unwrap();
    let gathered = distributed::all_gather(&scalar, Some(&group)).unwrap();
    assert_eq!(gathered.to_vec::<i32>().unwrap(), [0, 1]);

    // There and back: what arrives is what was sent.
    let sent = distributed::send(&x, 1 - i32::try_from(rank).unwrap(), Some(&group));
    let other = 1 - i32::try_from(rank).unwrap();
    if rank == 0 {
        sent.unwrap().eval().unwrap();
        let back = distributed::recv_like(&x, other, Some(&group)).unwrap();
        assert_eq!(back.to_vec::<f32>().unwrap(), [2.0, -4.0, 6.0]);
    } else {
        let came = distributed::recv(&[3], Dtype::Float32, other, Some(&group)).unwrap();
        assert_eq!(came.to_vec::<f32>().unwrap(), [1.0, -2.0, 3.0]);
        let twice = ops::add(&came, &came).unwrap();
        distributed::send(&twice, other, Some(&group)).unwrap().eval().unwrap();
    }

    what_a_ring_cannot(&group, &x);
    // Both are still here and in step.
    let stream = Stream::new(Device::cpu()).unwrap();
    let sum = stream::on_stream(&stream, || distributed::all_sum(&x, Some(&group))).unwrap();
    assert_eq!(sum.to_vec::<f32>().unwrap(), [11.0, 18.0, -27.0]);
    nothing_stays(&group, &x);
}

fn every_dtype(group: &Group) {
    let rank = if group.rank().unwrap() == 0 { 0.0 } else { 1.0 };
    for &dtype in Dtype::ALL {
        let host = Array::from_slice(&[1.0 + rank, 4.0 - rank, 0.0], &[3]).unwrap();
        let x = ops::astype(&host, dtype).unwrap();
        let sum = distributed::all_sum(&x, Some(group)).unwrap();
        assert_eq!(sum.dtype(), dtype);
        let sum = ops::astype(&sum, Dtype::Float32).unwrap().to_vec::<f32>().unwrap();
        let wanted = if dtype == Dtype::Bool { [1.0, 1.0, 0.0] } else { [3.0, 7.0, 0.0] };
        assert_eq!(sum, wanted, "{dtype}");
    }
    let x = Array::from_slice(&[bf16::from_f32(0.5 + rank)], &[1]).unwrap();
    let most = distributed::all_max(&x, Some(group)).unwrap();
    assert_eq!(most.item::<bf16>().unwrap(), bf16::from_f32(1.5));
}

fn what_a_ring_cannot(group: &Group, x: &Array) {
    let error = group.split(0, None).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Runtime);
    assert!(error.to_string().contains("split"), "{error}");
    for rank in [-1, 2, 7] {
        let error = distributed::send(x, rank, Some(group)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        let error = distributed::recv_like(x, rank, Some(group)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    let error = distributed::sum_scatter(x, Some(group)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "three for two: {error}");
    let even = Array::from_slice(&[1.0_f32; 4], &[4]).unwrap();
    let error = distributed::sum_scatter(&even, Some(group)).unwrap().eval().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Runtime);
    assert!(error.to_string().contains("sum_scatter"), "{error}");
}

fn nothing_stays(group: &Group, x: &Array) {
    let round = || {
        distributed::all_sum(x, Some(group)).unwrap().eval().unwrap();
        assert!(distributed::send(x, 9, None).is_err());
        assert!(group.split(0, Some(1)).is_err());
    };
    round();
    let before = live_handles();
    for _ in 0..100 {
        round();
    }
    assert_eq!(live_handles(), before);
}

/// One test: a group that `init` made without `strict` is the answer to later calls with it.
#[test]
fn alone() {
    a_backend_that_cannot_start_is_an_error();
    there_is_nothing_to_do();
}

fn there_is_nothing_to_do() {
    let group = distributed::init(false, Backend::Any).unwrap();
    assert_eq!((group.rank().unwrap(), group.size().unwrap()), (0, 1));
    let x = Array::from_slice(&[1.0_f32, 2.0], &[2]).unwrap();
    for collective in [
        distributed::all_sum,
        distributed::all_max,
        distributed::all_min,
        distributed::all_gather,
        distributed::sum_scatter,
    ] {
        assert_eq!(collective(&x, None).unwrap().to_vec::<f32>().unwrap(), [1.0, 2.0]);
    }
    let errors = [
        distributed::send(&x, 0, None).map(|_| ()).unwrap_err(),
        distributed::recv(&[2], Dtype::Float32, 0, Some(&group)).map(|_| ()).unwrap_err(),
        distributed::recv_like(&x, 0, None).map(|_| ()).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    assert_eq!(group.split(0, None).map(|_| ()).unwrap_err().kind(), ErrorKind::Runtime);
}

fn a_backend_that_cannot_start_is_an_error() {
    assert!(Backend::Any.is_available());
    assert!(Backend::Ring.is_available());
    for &(backend, name) in Backend::ALL {
        assert_eq!(Backend::from_name(name), Some(backend));
        if backend.is_available() && !matches!(backend, Backend::Ring | Backend::Any) {
            continue;
        }
        let error = distributed::init(true, backend).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Runtime, "{name}: {error}");
    }
    if !Backend::Jaccl.is_available() {
        let before = live_handles();
        let gather = |bytes: &[u8], _: usize, size: usize| Ok(bytes.repeat(size));
        let error = distributed::init_jaccl(true, gather).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Runtime, "{error}");
        drop(error);
        assert!(live_handles() <= before);
    }
}
