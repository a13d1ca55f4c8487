/* SPDX-License-Identifier: Apache-2.0 */
/* segment.c: packets that stand for many, and how to cut them. */
#include <arpa/inet.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

#include "link.h"

struct packet *packet_new(size_t bytes) {
  struct packet *packet = malloc(sizeof *packet + bytes);
  if (packet == NULL) return NULL;
  *packet = (struct packet){.bytes = (uint32_t)bytes};
  return packet;
}

static struct virtio_net_hdr header_of(const struct packet *packet) {
  struct virtio_net_hdr header;
  memcpy(&header, packet->data, sizeof header);
  return header;
}

/* returns: bytes before the TCP payload from the IP header on; 0: this packet is one of the wire. */
static size_t headers_of(const struct packet *packet, const struct virtio_net_hdr *header) {
  const uint8_t kind = header->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
  if ((kind != VIRTIO_NET_HDR_GSO_TCPV4 && kind != VIRTIO_NET_HDR_GSO_TCPV6) || header->gso_size == 0) return 0;
  const size_t ip_bytes = packet->bytes - VNET_BYTES, tcp_at = header->csum_start;
  if (tcp_at + sizeof(struct tcphdr) > ip_bytes) return 0;
  const size_t headers = tcp_at + (size_t)(packet->data[VNET_BYTES + tcp_at + 12] >> 4) * 4;
  return headers < ip_bytes ? headers : 0;
}

unsigned packet_segments(const struct packet *packet) {
  const struct virtio_net_hdr header = header_of(packet);
  const size_t headers = headers_of(packet, &header);
  if (headers == 0) return 1;
  const size_t payload = packet->bytes - VNET_BYTES - headers;
  return (unsigned)((payload + header.gso_size - 1) / header.gso_size);
}

uint64_t packet_wire_bytes(const struct packet *packet) {
  const struct virtio_net_hdr header = header_of(packet);
  const size_t headers = headers_of(packet, &header), bytes = packet->bytes - VNET_BYTES;
  if (headers == 0) return bytes + FRAME_BYTES;
  return bytes - headers + packet_segments(packet) * (uint64_t)(headers + FRAME_BYTES);
}

static uint32_t sum16(const void *data, size_t bytes, uint32_t sum) {
  const uint8_t *at = data;
  for (size_t i = 0; i + 1 < bytes; i += 2) sum += (uint32_t)(at[i] << 8 | at[i + 1]);
  return sum;
}

static uint16_t fold(uint32_t sum) {
  while (sum >> 16 != 0) sum = (sum & 0xFFFF) + (sum >> 16);
  return (uint16_t)sum;
}

/* Lengths and sums of a packet whose payload has changed; `skipped` packets of `size` bytes went before it. */
static void headers_mend(struct packet *packet, size_t tcp_at, unsigned skipped, uint32_t skipped_bytes) {
  uint8_t *ip = packet->data + VNET_BYTES;
  struct tcphdr *tcp = (struct tcphdr *)(ip + tcp_at);
  const uint16_t total = (uint16_t)(packet->bytes - VNET_BYTES), tcp_bytes = (uint16_t)(total - tcp_at);
  uint32_t sum = IPPROTO_TCP + (uint32_t)tcp_bytes;
  if (ip[0] >> 4 == 4) {
    struct iphdr *v4 = (struct iphdr *)ip;
    v4->tot_len = htons(total);
    v4->id = htons((uint16_t)(ntohs(v4->id) + skipped));
    v4->check = 0;
    v4->check = htons((uint16_t)~fold(sum16(ip, (size_t)v4->ihl * 4, 0)));
    sum = sum16(&v4->saddr, 8, sum);
  } else {
    struct ip6_hdr *v6 = (struct ip6_hdr *)ip;
    v6->ip6_plen = htons((uint16_t)(total - sizeof *v6));
    sum = sum16(&v6->ip6_src, 32, sum);
  }
  tcp->seq = htonl(ntohl(tcp->seq) + skipped_bytes);
  tcp->check = htons(fold(sum)); /* of the pseudo header; whoever receives it adds the rest */
}

static struct packet *piece_of(const struct packet *packet, size_t headers, size_t from, size_t bytes) {
  struct packet *piece = packet_new(VNET_BYTES + headers + bytes);
  if (piece == NULL) return NULL;
  memcpy(piece->data, packet->data, VNET_BYTES + headers);
  memcpy(piece->data + VNET_BYTES + headers, packet->data + VNET_BYTES + headers + from, bytes);
  struct virtio_net_hdr header = header_of(packet);
  if (bytes <= header.gso_size) {
    header.gso_type = VIRTIO_NET_HDR_GSO_NONE;
    header.gso_size = 0;
  }
  memcpy(piece->data, &header, sizeof header);
  return piece;
}

bool packet_split(const struct packet *packet, unsigned segments, struct packet **first, struct packet **rest) {
  const struct virtio_net_hdr header = header_of(packet);
  const size_t headers = headers_of(packet, &header), payload = packet->bytes - VNET_BYTES - headers;
  const size_t cut = (size_t)segments * header.gso_size;
  *first = piece_of(packet, headers, 0, cut);
  *rest = piece_of(packet, headers, cut, payload - cut);
  if (*first == NULL || *rest == NULL) {
    free(*first);
    free(*rest);
    return false;
  }
  headers_mend(*first, header.csum_start, 0, 0);
  headers_mend(*rest, header.csum_start, segments, (uint32_t)cut);
  struct tcphdr *tcp = (struct tcphdr *)((*first)->data + VNET_BYTES + header.csum_start);
  tcp->fin = 0;
  tcp->psh = 0;
  tcp = (struct tcphdr *)((*rest)->data + VNET_BYTES + header.csum_start);
  tcp->res2 &= 1; /* CWR is told once */
  return true;
}
