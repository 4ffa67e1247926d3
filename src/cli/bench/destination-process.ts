/** The process that `RemoteDestination` forks. */

import { receiveGuests } from '../../vmm/network-destination.js';
import { serveParent } from './destination-service.js';

serveParent(receiveGuests);
