#pragma once

#include "mlx/primitives.h"

// Whether an operation is one of `graft_primitive_apply`, which checks its shapes itself.
bool graft_is_primitive(const mlx::core::Primitive& primitive);
