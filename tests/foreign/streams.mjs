// Runs what it is given, with EventSource, WebSocket and a function that prints JSON.
import { EventSource } from "eventsource";
import WebSocket from "ws";

const print = (value) => console.log(JSON.stringify(value));
const [script, url] = process.argv.slice(2);
const AsyncFunction = (async () => {}).constructor;
await new AsyncFunction("EventSource", "WebSocket", "url", "print", script)(EventSource, WebSocket, url, print);
