import { type SendingThreadData, sendFromRing } from '../src/transport/network/sending-thread.js';
import { sayUp, work } from './thread.js';

work((data: SendingThreadData) => {
  sayUp();
  return sendFromRing(data);
});
