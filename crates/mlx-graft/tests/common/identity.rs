//! Operations of tests that compute their input.

/// One output like the first input, and the kernel that copies its `float32`, for an implementation
/// of [`Primitive`](mlx_graft::primitive::Primitive).
macro_rules! identity {
    () => {
        fn output_specs(
            &self,
            inputs: &[mlx_graft::primitive::ArraySpec],
        ) -> mlx_graft::Result<Vec<mlx_graft::primitive::ArraySpec>> {
            Ok(vec![inputs[0].clone()])
        }

        fn eval_cpu(
            &self,
            inputs: &[mlx_graft::primitive::InputBuffer<'_>],
            outputs: &mut [mlx_graft::primitive::OutputBuffer<'_>],
        ) -> Result<(), mlx_graft::primitive::KernelError> {
            outputs[0].as_mut_slice::<f32>()?.copy_from_slice(inputs[0].as_slice::<f32>()?);
            Ok(())
        }
    };
}
