//! Handles that cross to other holders of the same `libmlx`, and what identifies them.
#![allow(unsafe_code)]

use mlx_graft::{
    Array, BorrowedArray, Device, DeviceInfo, DeviceValue, Dtype, Result, Stream,
    ThreadLocalStream, array_to_raw, device_from_raw, live_handles, ops, stream_from_raw,
    stream_to_raw, sys, thread_local_stream_from_raw, thread_local_stream_to_raw, transforms,
};

#[test]
fn an_array_is_borrowed_without_a_handle() -> Result<()> {
    let x = Array::from_slice(&[1.0_f32, 2.0], &[2])?;
    let before = live_handles();
    // SAFETY: `x` outlives the reference, and nobody changes it.
    let borrowed = unsafe { BorrowedArray::new(array_to_raw(&x)) };
    assert_eq!(live_handles(), before);
    assert_eq!(borrowed.to_vec::<f32>()?, [1.0, 2.0]);
    let own: Array = borrowed.clone();
    assert_eq!(Array::id(&own), Array::id(&x));
    assert_ne!(Array::id(&ops::add(&x, &x)?), Array::id(&x));
    Ok(())
}

#[test]
fn a_device_crosses() -> Result<()> {
    // SAFETY: makes a handle, which is freed below.
    let raw = unsafe { sys::mlx_device_new_type(sys::MLX_CPU, 0) };
    // SAFETY: the handle is live.
    let device = unsafe { device_from_raw(raw.ctx) }?;
    // SAFETY: frees the handle, once.
    unsafe { sys::mlx_device_free(raw) };
    assert_eq!(device, Device::cpu());
    Ok(())
}

#[test]
fn streams_cross() -> Result<()> {
    let stream = Stream::new(Device::cpu())?;
    // SAFETY: the stream is live and of this thread.
    let again = unsafe { stream_from_raw(stream_to_raw(&stream)) }?;
    assert_eq!(again, stream);
    assert_ne!(again, Stream::new(Device::cpu())?);

    let stream = ThreadLocalStream::new(Device::cpu())?;
    // SAFETY: the stream is live.
    let again = unsafe { thread_local_stream_from_raw(thread_local_stream_to_raw(&stream)) }?;
    assert_eq!(again.stream()?, stream.stream()?);
    Ok(())
}

#[test]
fn an_array_knows_whether_it_is_traced() -> Result<()> {
    let x = Array::scalar(2.0_f32)?;
    assert!(!Array::is_tracer(&x));
    let f = |x: &[Array]| {
        assert!(Array::is_tracer(&x[0]));
        Ok(vec![ops::square(&x[0])?])
    };
    let (_, gradients) = transforms::value_and_grad(f, &[0], &[x])?;
    assert_eq!(gradients[0].to_vec::<f32>()?, [4.0]);
    Ok(())
}

#[test]
fn what_is_known_of_a_device_has_a_type() -> Result<()> {
    let info: DeviceInfo = Device::cpu().info()?;
    for key in DeviceInfo::keys(&info)? {
        let value = DeviceInfo::get(&info, &key)?.expect("it is one of the keys");
        match value {
            DeviceValue::Text(text) => assert!(!text.is_empty(), "{key}"),
            DeviceValue::Number(number) => assert!(number > 0, "{key}"),
        }
    }
    assert_eq!(DeviceInfo::get(&info, "wings")?, None);
    Ok(())
}

#[test]
fn sizes_of_dtypes_are_those_of_mlx() {
    for dtype in Dtype::ALL {
        let x = ops::zeros(&[3], *dtype).expect("a valid shape");
        assert_eq!(x.nbytes(), 3 * Dtype::size(*dtype), "{dtype}");
    }
}
