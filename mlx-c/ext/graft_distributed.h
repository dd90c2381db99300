#ifndef GRAFT_DISTRIBUTED_H
#define GRAFT_DISTRIBUTED_H

#include <stdbool.h>
#include <stddef.h>

#include "mlx/c/distributed_group.h"
#include "mlx/c/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * \defgroup graft_distributed What mlx-c lacks of distributed groups
 */
/**@{*/

/**
 * The stream on which a group communicates when none is given: that depends on its backend, not on
 * the default device.
 */
int graft_distributed_stream(
    mlx_stream* res,
    const mlx_distributed_group group /* may be null */);

/**
 * Exchanges bytes between all ranks: `src` holds `n_bytes` of this one, `dst` takes those of every
 * rank in order. Returns 0, or non-zero for a failure.
 */
typedef int (*graft_distributed_all_gather)(
    const char* src,
    char* dst,
    size_t n_bytes,
    int rank,
    int size,
    void* payload);

/**
 * Initialize the backend jaccl, whose processes find each other with the help of `all_gather`.
 * Takes the payload, upon failure too.
 */
int graft_distributed_init_jaccl(
    mlx_distributed_group* res,
    bool strict,
    graft_distributed_all_gather all_gather,
    void* payload,
    void (*dtor)(void*));

/**@}*/

#ifdef __cplusplus
}
#endif

#endif
