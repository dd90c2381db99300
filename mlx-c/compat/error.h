// mlx-c passes the text of an exception as the format of `_mlx_error`, a printf: a percent sign in
// it, which may come from a caller's string, would read arguments that are not there. Force-included
// into every source, so that the text is an argument.
#pragma once

#include "mlx/c/error.h"

#undef mlx_error
#define mlx_error(text) _mlx_error(__FILE__, __LINE__, "%s", (text))
