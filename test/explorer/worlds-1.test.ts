import { exploreWorlds } from './explore-worlds.js';

exploreWorlds(0, 2);
