// Scores texts through a SingularityNET daemon from Node, and pays from a payment channel that
// snet-cli opened. The SDK for Node (snet-sdk 2.0.0) can't: it knows the former token's contracts.
//
//   npm install ethers@6 @grpc/grpc-js@1 @grpc/proto-loader@0.8 protobufjs@7
//   node snet_paid_client.mjs --endpoint https://daemon.example.com:8088 --channel 1 \
//       --price 0.00001 "good morning" "you are scum"
//
// SNET_PRIVATE_KEY is the key of the account that opened the channel, SNET_ETH_RPC_ENDPOINT the URL
// of an Ethereum node. `snet service print-metadata ORG SERVICE` shows endpoint and price,
// `snet channel print-filter-group-sender ORG GROUP` the channel's number.
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import { ethers } from "ethers";
import protobuf from "protobufjs";

// The contract that keeps the channels (MultiPartyEscrow), by the chain's id: mainnet and Sepolia.
const ESCROWS = {
  1: "0xdF8d4826E016aFA8803d94A716FEB70aD5D2B8Ac",
  11155111: "0x042d31F61c598eADcAc729B845406514521db520",
};
const ESCROW_ABI = [
  "function channels(uint256) view returns (uint256 nonce, address sender, address signer," +
    " address recipient, bytes32 groupId, uint256 value, uint256 expiration)",
];
// The part of the daemon's own proto (state_service.proto) that this client uses.
const STATE_PROTO = `
  syntax = "proto3";
  package escrow;
  service PaymentChannelStateService {
    rpc GetChannelState(ChannelStateRequest) returns (ChannelStateReply) {}
  }
  message ChannelStateRequest {
    bytes channel_id = 1;
    bytes signature = 2;
    uint64 current_block = 3;
  }
  message ChannelStateReply {
    bytes current_nonce = 1;
    bytes current_signed_amount = 2;
  }`;
const PROTO_OPTIONS = { keepCase: true, defaults: true };
const ATTEMPTS = 5;
const FIRST_PAUSE_SECONDS = 2;

class CallerError extends Error {}

async function sign(wallet, types, values) {
  const hash = ethers.solidityPackedKeccak256(types, values);
  return Buffer.from(ethers.getBytes(await wallet.signMessage(ethers.getBytes(hash))));
}

// Sends one call of a stub; resolves to the reply, rejects with the gRPC error.
function send(stub, method, message, metadata = new grpc.Metadata()) {
  return new Promise((resolve, reject) => {
    stub[method](message, metadata, (error, reply) => (error ? reject(error) : resolve(reply)));
  });
}

// Returns the metadata that pay for one call: the sum of all calls on the channel, signed.
async function promisePayment(wallet, escrow, states, id, price) {
  const block = await wallet.provider.getBlockNumber();
  const types = ["string", "address", "uint256", "uint256"];
  const state = await send(states, "GetChannelState", {
    channel_id: Buffer.from(ethers.toBeArray(id)),
    signature: await sign(wallet, types, ["__get_channel_state", escrow.target, id, block]),
    current_block: block,
  });
  const signed = ethers.toBigInt(state.current_signed_amount); // empty before the first call
  const { nonce, value } = await escrow.channels(id);
  const amount = signed + price;
  if (amount > value) {
    const left = ethers.formatEther(value - signed);
    throw new CallerError(`channel ${id} has ${left} FET left: snet channel extend-add`);
  }
  const claim = ["__MPE_claim_message", escrow.target, id, nonce, amount];
  const signature = await sign(wallet, [...types, "uint256"], claim);
  const metadata = new grpc.Metadata();
  metadata.set("snet-payment-type", "escrow");
  metadata.set("snet-payment-channel-id", `${id}`);
  metadata.set("snet-payment-channel-nonce", `${nonce}`);
  metadata.set("snet-payment-channel-amount", `${amount}`);
  metadata.set("snet-payment-channel-signature-bin", signature);
  return metadata;
}

// FAILED_PRECONDITION: another call on the channel is in progress. UNAVAILABLE holds the back end's
// status: what it refuses for the input (4xx) it will refuse again.
function isPassing(error) {
  if (error.code === grpc.status.UNAVAILABLE) {
    return !/upstream http status 4(?!29|08)/.test(error.details);
  }
  return error.code === grpc.status.FAILED_PRECONDITION;
}

async function callWithPauses(attempt) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await attempt();
    } catch (error) {
      if (tries === ATTEMPTS || !isPassing(error)) throw error;
      const seconds = FIRST_PAUSE_SECONDS * 2 ** (tries - 1);
      console.error(`${describe(error)}; next try in ${seconds} s`);
      await pause(seconds * 1000);
    }
  }
}

// One line about an error: of gRPC, of ethers, or any other.
function describe(error) {
  const text = error.details ?? error.shortMessage ?? error.message;
  const code = error.details === undefined ? "" : `${grpc.status[error.code]}: `;
  return code + text.trim().split("\n")[0].trimEnd();
}

const PROTO = fileURLToPath(new URL("../service.proto", import.meta.url));

async function main() {
  const { values: options, positionals: texts } = parseArgs({
    allowPositionals: true,
    options: {
      endpoint: { type: "string" },
      channel: { type: "string" },
      price: { type: "string" },
      proto: { type: "string", default: PROTO },
    },
  });
  for (const name of ["endpoint", "channel", "price"]) {
    if (!options[name]) throw new CallerError(`--${name} is missing`);
  }
  for (const name of ["SNET_PRIVATE_KEY", "SNET_ETH_RPC_ENDPOINT"]) {
    if (!process.env[name]) throw new CallerError(`${name} is not set`);
  }
  if (!texts.length) throw new CallerError("give one text or more");

  const provider = new ethers.JsonRpcProvider(process.env.SNET_ETH_RPC_ENDPOINT);
  const wallet = new ethers.Wallet(process.env.SNET_PRIVATE_KEY, provider);
  const { chainId } = await provider.getNetwork();
  if (!(chainId in ESCROWS)) throw new CallerError(`no contract is known on chain ${chainId}`);
  const escrow = new ethers.Contract(ESCROWS[chainId], ESCROW_ABI, provider);

  const { protocol, host } = new URL(options.endpoint);
  const credentials =
    protocol === "https:" ? grpc.credentials.createSsl() : grpc.credentials.createInsecure();
  const service = grpc.loadPackageDefinition(loader.loadSync(options.proto, PROTO_OPTIONS)).service;
  const stateProto = protobuf.parse(STATE_PROTO, PROTO_OPTIONS).root.toJSON();
  const daemon = grpc.loadPackageDefinition(loader.fromJSON(stateProto, PROTO_OPTIONS)).escrow;
  const stub = new service.runsync(host, credentials);
  const states = new daemon.PaymentChannelStateService(host, credentials);

  const input = texts.length === 1 ? { prompt: texts[0] } : { prompts: texts };
  const [id, price] = [BigInt(options.channel), ethers.parseEther(options.price)];
  const reply = await callWithPauses(async () =>
    send(stub, "runsync", { input }, await promisePayment(wallet, escrow, states, id, price)),
  );
  // Only COMPLETED comes with an output. The scores of an absent output read as zeros.
  if (reply.status !== "COMPLETED" || !reply.output) {
    throw new CallerError(`${reply.status}: ${reply.error || "no result yet"} (job ${reply.id})`);
  }
  const items = reply.output.items.length ? reply.output.items : [reply.output];
  for (const item of items) {
    console.log(item.error || `${item.label} ${item[item.label].toFixed(4)}`, item.text);
  }
}

try {
  await main();
  process.exit(0); // the node's provider keeps a timer
} catch (error) {
  console.error(`error: ${describe(error)}`);
  process.exit(1);
}
