// SPDX-License-Identifier: Apache-2.0
// What a feeder tells of itself, cut to what a feeder can have: whoever holds its key may still say anything, and the
// agent keeps it and hands it on.
import {
  DEVICE_NAME_CHARACTERS_MAX,
  DEVICES_PER_FEEDER_MAX,
  PAUSES_PER_FEEDER_MAX,
} from '../../proto/base/limits.js';
import type { FeederPause, LentDevice } from '../../proto/gen/greenboost/v1/feeder_pb.js';
import { plainText } from '../control/events.js';
import { ATTRIBUTES_MAX } from '../shim/abi.js';

/** `before`: what it told earlier; only Hello tells attributes, and they do not change. Ownership: `told` is kept. */
export function devicesTold(told: LentDevice[], before: readonly LentDevice[]): LentDevice[] {
  const devices = told.slice(0, DEVICES_PER_FEEDER_MAX);
  for (const device of devices) {
    device.name = plainText(device.name, DEVICE_NAME_CHARACTERS_MAX);
    device.uuid = plainText(device.uuid, DEVICE_NAME_CHARACTERS_MAX);
    device.attributes = device.attributes.slice(0, ATTRIBUTES_MAX);
    const same = before.find(({ uuid }) => uuid !== '' && uuid === device.uuid);
    if (same && device.attributes.length === 0) device.attributes = same.attributes;
  }
  return devices;
}

/** Several causes that hold at once, without words: those are for the feeder's own user. */
export function pausesTold(told: readonly FeederPause[]): FeederPause[] {
  return told.slice(0, PAUSES_PER_FEEDER_MAX).map((pause) => ({ ...pause, text: '' }));
}
