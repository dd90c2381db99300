#ifndef GRAFT_STREAM_H
#define GRAFT_STREAM_H

#include "mlx/c/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * \defgroup graft_stream Streams
 */
/**@{*/

/** The default stream of the default device, in one call. */
int graft_get_default_stream(mlx_stream* res);

/**@}*/

#ifdef __cplusplus
}
#endif

#endif
