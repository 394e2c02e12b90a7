// Runs what it is given, with Socket.IO's client and a function that prints JSON.
import { io } from "socket.io-client";

const print = (value) => console.log(JSON.stringify(value));
const [script, url] = process.argv.slice(2);
const AsyncFunction = (async () => {}).constructor;
await new AsyncFunction("io", "url", "print", script)(io, url, print);
