//! A device that is not there, as the default one. A process of its own: MLX's default is that of all
//! threads, and none of them can evaluate meanwhile.

use mlx_graft::stream::current_device;
use mlx_graft::{Array, Device, DeviceType, ops, with_device};

const FOURTH: Device = Device { kind: DeviceType::Cpu, index: 3 };

#[test]
fn a_default_that_is_not_there_counts_in_its_scope() {
    let x = Array::from_slice(&[1.0_f32, 2.0], &[2]).unwrap();
    with_device(Device::cpu(), || {
        assert!(with_device(FOURTH, || ops::exp(&x)).unwrap().is_err());
        assert_eq!(current_device().unwrap(), Device::cpu());
        assert!(ops::exp(&x).unwrap().eval().is_ok());
    })
    .unwrap();
}
