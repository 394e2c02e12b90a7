// Prints the names of what the other programs here import.
import { EventSource } from "eventsource";
import { io } from "socket.io-client";
import WebSocket from "ws";

const known = { EventSource, WebSocket, io };
console.log(JSON.stringify(Object.keys(known).filter((name) => typeof known[name] === "function")));
