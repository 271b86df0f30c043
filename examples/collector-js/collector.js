// A collector of flow records in JavaScript. It uses the public NATS client and docs/stream.md, no
// code of netsonde.
//
//     node collector.js NATS_URL [SECONDS]
//
// It reads the stream CAPTURE_FLOWS with a durable consumer and prints one record per line. It ends
// when nothing has arrived for SECONDS; without SECONDS it runs until it is stopped. The summary is
// on stderr. The exit code is 1 if a message was refused or a batch is missing.

import { once } from "node:events";

import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";

const STREAM = "CAPTURE_FLOWS";
const DURABLE = "collector-js";
const IDLE_MIN_MS = 1000; // the shortest wait that the client accepts

class Batches {
  #last = new Map(); // "host:boot" -> the highest seq so far
  duplicates = 0;
  missing = 0;

  // Returns whether the batch is new. The stream keeps the order of each host, so a lower number
  // was seen before and a higher one leaves a gap.
  accept({ host, boot, seq }) {
    const run = `${host}:${boot}`;
    const last = this.#last.get(run);
    if (last !== undefined && seq <= last) {
      this.duplicates += 1;
      return false;
    }
    if (last !== undefined) this.missing += seq - last - 1;
    this.#last.set(run, seq);
    return true;
  }
}

// Returns the batch, or throws an Error that says why it cannot be believed.
function read(message) {
  const type = message.headers?.get("Content-Type");
  if (type !== "application/json") throw new Error(`cannot read ${type}`);
  const batch = message.json();
  // capture.stream.flows.<host>, or with shards capture.stream.flows.<host>.<p>
  const host = message.subject.split(".").slice(3)[0];
  if (batch.host !== host) throw new Error(`host ${batch.host} on the subject of ${host}`);
  return batch;
}

async function print(record) {
  if (!process.stdout.write(`${JSON.stringify(record)}\n`)) await once(process.stdout, "drain");
}

async function collect(connection, idleMs) {
  const manager = await jetstreamManager(connection);
  await manager.consumers.add(STREAM, { durable_name: DURABLE, ack_policy: AckPolicy.Explicit });
  const consumer = await jetstream(connection).consumers.get(STREAM, DURABLE);
  const batches = new Batches();
  let records = 0;
  let refused = 0;
  for (;;) {
    const message = await consumer.next({ expires: Math.max(idleMs ?? 30_000, IDLE_MIN_MS) });
    if (message === null) {
      if (idleMs === undefined) continue;
      break;
    }
    try {
      const batch = read(message);
      if (batches.accept(batch)) {
        for (const record of batch.records) await print(record);
        records += batch.records.length;
      }
    } catch (error) {
      refused += 1;
      console.error(`${message.subject}: ${error.message}`);
    }
    message.ack(); // after the records were written
  }
  const { duplicates, missing } = batches;
  console.error(JSON.stringify({ records, duplicates, missing, refused }));
  return refused + missing === 0;
}

const [url, seconds] = process.argv.slice(2);
const connection = await connect({ servers: url });
const complete = await collect(connection, seconds === undefined ? undefined : seconds * 1000);
await connection.drain();
process.exitCode = complete ? 0 : 1;
