#ifndef GRAFT_PROFILE_H
#define GRAFT_PROFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mlx/c/array.h"
#include "mlx/c/vector.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * \defgroup graft_profile What an evaluation does, operation by operation
 */
/**@{*/

/** What an operation reads or writes. Valid during the call only. */
typedef struct graft_profile_array_ {
  const int* shape;
  size_t ndim;
  mlx_dtype dtype;
  /** The identity of the memory it lies in, which views of it share; 0 without memory. */
  uintptr_t buffer;
  /** The bytes of that memory. */
  size_t buffer_bytes;
  /** The bytes of its own elements; those of a broadcast dimension count once. */
  size_t bytes;
  /** Whether an array that was asked for lies in that memory. */
  bool kept;
} graft_profile_array;

/** An operation that was evaluated. Valid during the call only. */
typedef struct graft_profile_operation_ {
  const char* name;
  const graft_profile_array* inputs;
  size_t num_inputs;
  const graft_profile_array* outputs;
  size_t num_outputs;
  /** Nanoseconds from the start of the evaluation. */
  int64_t start;
  int64_t end;
} graft_profile_operation;

/**
 * Evaluate arrays, and give the operations of their graph to a callback in the order in which they
 * were started, on this thread before this returns. The callback returns 0, or non-zero to end
 * with a failure; it may not throw.
 *
 * Together, the evaluation is that of mlx_eval, and the thread of the stream notes the time before
 * and after each operation; that is possible on the CPU only. Apart, each operation is evaluated
 * alone, on any device, inputs before outputs; its time includes that of starting it and of waiting
 * for it. `nanoseconds` is the time of the whole evaluation.
 */
int graft_profile_eval(
    int64_t* nanoseconds,
    int (*callback)(const graft_profile_operation* operation, void* payload),
    void* payload,
    const mlx_vector_array arrays,
    bool apart);

/**@}*/

#ifdef __cplusplus
}
#endif

#endif
