/* SPDX-License-Identifier: Apache-2.0 */
/*
 * service.h: one executor serving one daemon over one socket. The thread that calls gbx_serve reads requests; a few
 * workers do everything that takes time. Replies come in any order.
 */
#ifndef GBX_SERVICE_H
#define GBX_SERVICE_H

/* Serves until the other end closes, then ends the lanes, scrubs device memory and returns. `door_fd`: where
 * connections of lanes arrive; -1: there are no lanes. returns: 0 at the end of the stream; 1 when the peer broke the
 * protocol or the socket failed. */
int gbx_serve(int socket_fd, int door_fd);

#endif
