import { exploreWorlds } from './explore-worlds.js';

exploreWorlds(1, 2);
