/* SPDX-License-Identifier: Apache-2.0 */
/*
 * service.h: one executor serving one daemon over one socket. The thread that calls gbx_serve reads requests; a few
 * workers do everything that takes time, so that several transfers are in flight. Replies come in any order.
 */
#ifndef GBX_SERVICE_H
#define GBX_SERVICE_H

/* Serves until the other end closes, then scrubs device memory and returns. returns: 0 at the end of the stream; 1 when
 * the peer broke the protocol or the socket failed. */
int gbx_serve(int socket_fd);

#endif
