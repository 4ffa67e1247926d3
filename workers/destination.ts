import { EventWord } from '../src/memory/control-buffer.js';
import { SharedGuestMemory } from '../src/memory/guest-memory.js';
import { atomicMapper } from '../src/memory/shared-words.js';
import { Receiver } from '../src/migration/receiver.js';
import { MemoryChannelEnd } from '../src/transport/memory.js';
import { type DestinationThreadData, receivingVm } from '../src/vmm/worker-destination.js';
import { sayUp, work } from './thread.js';

work((data: DestinationThreadData) => {
  const guest = receivingVm(data);
  const end = new MemoryChannelEnd(atomicMapper, data.channel, new EventWord(atomicMapper, data.event));
  const receiver = new Receiver(guest, (message) => end.reply(message));
  const source = new SharedGuestMemory(guest.memory.layout, data.sourceBuffers);
  sayUp();
  end.receive(receiver, source);
});
