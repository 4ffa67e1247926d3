import {
  type ReceivingThreadData,
  receiveFromDescriptor,
} from '../src/transport/network/receiving-thread.js';
import { sayUp, work } from './thread.js';

work((data: ReceivingThreadData) => {
  sayUp();
  return receiveFromDescriptor(data);
});
