//! Threads: each with arrays and streams of its own, and host data between them.

use std::sync::mpsc;
use std::thread;

use mlx_graft::{
    Array, Closure, Device, Result, Stream, ThreadLocalStream, ops, stream, transforms, with_stream,
};

const THREADS: u16 = 8;

/// What a thread does in a round: operations, a gradient and a compiled function.
fn round(number: f32) -> Result<Vec<f32>> {
    let x = Array::from_slice(&[number, number + 1.0, number + 2.0], &[3])?;
    let square_sum = |x: &[Array]| Ok(vec![ops::sum(&ops::square(&x[0])?, false)?]);
    let gradient = transforms::grad(square_sum, &[0], &[&x])?;
    let compiled = transforms::compile(square_sum, false)?;
    let value = compiled.call(&[&gradient[0]])?;
    ops::sum(&ops::add(&value[0], &x)?, false)?.to_vec::<f32>()
}

fn expected(n: f32) -> f32 {
    let squares: f32 = [n, n + 1.0, n + 2.0].iter().map(|x| 4.0 * x * x).sum();
    3.0 * squares + 3.0 * n + 3.0
}

#[test]
fn eight_threads_each_with_their_own() {
    let shared = ThreadLocalStream::new(Device::cpu()).unwrap();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let shared = &shared;
            scope.spawn(move || {
                let own = Stream::new(Device::cpu()).unwrap();
                for step in 0..100_u16 {
                    let n = f32::from(thread * 4 + step % 7);
                    let of_this_thread = shared.stream().unwrap();
                    let stream = if step % 2 == 0 { &of_this_thread } else { &own };
                    let found = with_stream(stream, || round(n)).unwrap().unwrap();
                    assert_eq!(found, vec![expected(n)], "thread {thread}, step {step}");
                    if step % 10 == 0 {
                        assert!(ops::reshape(&Array::scalar(n).unwrap(), &[2]).is_err());
                        stream.synchronize().unwrap();
                    }
                }
                shared.synchronize().unwrap();
                stream::clear_streams().unwrap();
            });
        }
    });
}

#[test]
fn errors_belong_to_their_thread() {
    thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for step in 1..50 {
                    let length = i32::from(thread) * 100 + step;
                    let x = ops::zeros(&[length], mlx_graft::Dtype::Float32).unwrap();
                    let error = ops::reshape(&x, &[length + 1]).unwrap_err().to_string();
                    assert!(error.contains(&length.to_string()), "{error}");
                    let failing = Closure::new(move |_| {
                        Err(mlx_graft::Error::invalid_argument("mine", length.to_string()))
                    });
                    let error = failing.call(&[&x]).unwrap_err().to_string();
                    assert_eq!(error, format!("[mine] {length}"));
                }
            });
        }
    });
}

#[test]
fn host_data_goes_down_a_pipeline() {
    let (send, receive) = mpsc::channel::<Vec<f32>>();
    let producer = thread::spawn(move || {
        for n in 0..20_u8 {
            let x = Array::from_slice(&[f32::from(n); 4], &[2, 2]).unwrap();
            send.send(ops::square(&x).unwrap().to_vec().unwrap()).unwrap();
        }
    });
    let sums: Vec<f32> = receive
        .iter()
        .map(|host| {
            let x = Array::from_slice(&host, &[4]).unwrap();
            ops::sum(&x, false).unwrap().item().unwrap()
        })
        .collect();
    producer.join().unwrap();
    assert_eq!(sums, (0..20_u8).map(|n| 4.0 * f32::from(n).powi(2)).collect::<Vec<_>>());
}
