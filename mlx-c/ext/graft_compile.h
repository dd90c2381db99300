#ifndef GRAFT_COMPILE_H
#define GRAFT_COMPILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mlx/c/vector.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * \defgroup graft_compile Compilation of functions that return more than arrays
 * A compiled function runs once for each trace. What it returns beside its arrays, such as the
 * structure into which they belong, is kept with the trace and comes out of every later call.
 */
/**@{*/

/** A value that a function returns beside its arrays. Shared, and freed with its last owner. */
typedef struct graft_extra_ {
  void* ctx;
} graft_extra;

/** An extra without a value. */
graft_extra graft_extra_new(void);

/** An extra that owns the payload. `dtor` may run on any thread; it must not throw or unwind. */
graft_extra graft_extra_new_payload(void* payload, void (*dtor)(void*));

/** The payload, null if there is none. Valid as long as an owner lives. */
void* graft_extra_payload(const graft_extra extra);

/** Give up a share of the value. */
int graft_extra_free(graft_extra extra);

/** A function from arrays to arrays and an extra. */
typedef struct graft_closure_extra_ {
  void* ctx;
} graft_closure_extra;

/** An empty closure. */
graft_closure_extra graft_closure_extra_new(void);

/** A closure that owns the payload. */
graft_closure_extra graft_closure_extra_new_func_payload(
    int (*fun)(mlx_vector_array*, graft_extra*, const mlx_vector_array, void*),
    void* payload,
    void (*dtor)(void*));

/** Call a closure. */
int graft_closure_extra_apply(
    mlx_vector_array* res_0,
    graft_extra* res_1,
    graft_closure_extra cls,
    const mlx_vector_array input);

/** Free a closure. */
int graft_closure_extra_free(graft_closure_extra cls);

/**
 * Compile a closure, as mlx_detail_compile does. The traces of `fun_id` stay in the cache of the
 * calling thread until mlx_detail_compile_erase.
 */
int graft_detail_compile_extra(
    graft_closure_extra* res,
    const graft_closure_extra fun,
    uintptr_t fun_id,
    bool shapeless,
    const uint64_t* constants,
    size_t constants_num);

/**
 * Of each operation with several outputs between `inputs` and `outputs`, one output. While a
 * function is traced, MLX copies its graph, and may let go of such an operation in a way in which
 * its outputs, which refer to each other, keep themselves and all before them alive. An array that
 * is freed after the trace is made breaks that circle.
 */
int graft_trace_siblings(
    mlx_vector_array* res,
    const mlx_vector_array outputs,
    const mlx_vector_array inputs);

/**@}*/

#ifdef __cplusplus
}
#endif

#endif
