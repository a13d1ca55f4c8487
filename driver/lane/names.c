/* SPDX-License-Identifier: Apache-2.0 */
/*
 * names.c: statuses and refusals in words.
 */
#include "lane.h"

const char *gb_lane_status_name(int status) {
  static const char *const names[] = {
      [GB_LANE_OK] = "OK",
      [GB_LANE_BUSY] = "BUSY",
      [GB_LANE_INVALID] = "INVALID",
      [GB_LANE_NO_MEMORY] = "NO_MEMORY",
      [GB_LANE_NO_CRYPTO] = "NO_CRYPTO",
      [GB_LANE_UNREACHABLE] = "UNREACHABLE",
      [GB_LANE_REFUSED] = "REFUSED",
      [GB_LANE_TIMEOUT] = "TIMEOUT",
      [GB_LANE_DEADLINE] = "DEADLINE",
      [GB_LANE_CANCELED] = "CANCELED",
      [GB_LANE_LOST] = "LOST",
      [GB_LANE_DISCONNECTED] = "DISCONNECTED",
      [GB_LANE_CLOSED] = "CLOSED",
      [GB_LANE_FORGED] = "FORGED",
      [GB_LANE_PROTOCOL] = "PROTOCOL",
      [GB_LANE_NOT_FOUND] = "NOT_FOUND",
      [GB_LANE_DENIED] = "DENIED",
      [GB_LANE_RANGE] = "RANGE",
      [GB_LANE_REVOKED] = "REVOKED",
      [GB_LANE_FORKED] = "FORKED",
      [GB_LANE_IO] = "IO",
      [GB_LANE_LIMIT] = "LIMIT",
      [GB_LANE_PENDING] = "PENDING",
  };
  return status >= 0 && status <= GB_LANE_PENDING ? names[status] : "UNKNOWN_STATUS";
}

const char *gb_lane_refusal_name(int reason) {
  static const char *const names[GB_LANE_REFUSALS] = {
      "NONE", "SHORT",   "FORMAT", "VERSION", "UNKNOWN", "MAC",
      "USED", "EXPIRED", "CIPHER", "LIMIT",   "ADDRESS", "GONE",
  };
  return reason >= 0 && reason < GB_LANE_REFUSALS ? names[reason] : "UNKNOWN_REFUSAL";
}
