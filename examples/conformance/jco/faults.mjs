// Promises that a host can break, and what the guest has to report of it then.
//
// `make` of a fault breaks one in a host that newHost has made; `realloc` replaces the
// cabi_realloc that the host calls. `report` is what the guest has to say; `only` names
// the draft that can have the fault.

import { access, memory } from './faults_access.mjs';
import { atomics, swaps } from './faults_atomics.mjs';
import { batch } from './faults_batch.mjs';
import { listing, store } from './faults_store.mjs';

export const faults = [...store, ...listing, ...batch, ...atomics, ...swaps, ...access, ...memory];
