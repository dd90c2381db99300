//! Operations of tests that nobody transforms.

/// Derivatives and a map that are errors, for an implementation of
/// [`Primitive`](mlx_graft::primitive::Primitive).
macro_rules! no_transforms {
    () => {
        fn vjp(
            &self,
            _: &[mlx_graft::Array],
            _: &[mlx_graft::Array],
            _: &[usize],
            _: &[mlx_graft::Array],
        ) -> mlx_graft::Result<Vec<mlx_graft::Array>> {
            Err(mlx_graft::Error::unsupported_transform(Self::NAME, "vjp"))
        }

        fn jvp(
            &self,
            _: &[mlx_graft::Array],
            _: &[mlx_graft::Array],
            _: &[usize],
        ) -> mlx_graft::Result<Vec<mlx_graft::Array>> {
            Err(mlx_graft::Error::unsupported_transform(Self::NAME, "jvp"))
        }

        fn vmap(
            &self,
            _: &[mlx_graft::Array],
            _: &[Option<i32>],
        ) -> mlx_graft::Result<(Vec<mlx_graft::Array>, Vec<Option<i32>>)> {
            Err(mlx_graft::Error::unsupported_transform(Self::NAME, "vmap"))
        }
    };
}
