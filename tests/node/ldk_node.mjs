// One LDK node (rust-lightning as WASM) with real keys, channels and commitment transactions.
// Its chain is told to it through LDK's Confirm interface, which trusts the caller: no bitcoind.

import * as crypto from "node:crypto";
import * as fs from "node:fs";
import { fileURLToPath } from "node:url";
import * as ldk from "lightningdevkit";
import { NodeLDKNet } from "lightningdevkit-node-net";

export { ldk };
export const NETWORK = ldk.Network.LDKNetwork_Regtest;
const FEE_RATE = 253; // satoshi per 1,000 weight: the least that is relayed
const TICK_MS = 2;
const DONE = ldk.ChannelMonitorUpdateStatus.LDKChannelMonitorUpdateStatus_Completed;

export const hex = (bytes) => Buffer.from(bytes).toString("hex");
export const sha256 = (bytes) => crypto.createHash("sha256").update(bytes).digest();

// The value of an LDK result; its error as an exception.
export function value(result) {
  if (result.is_ok()) return result.res;
  throw new Error(`${result.constructor.name} ${result.err?.constructor?.name ?? result.err}`);
}

// The value of an LDK option, or null.
export const some = (option) => option?.some ?? null;

export async function load() {
  console.log = console.error; // the bindings greet; standard output is for answers
  const wasm = fileURLToPath(import.meta.resolve("lightningdevkit/liblightningjs.wasm"));
  await ldk.initializeWasmFromBinary(fs.readFileSync(wasm));
}

export class LdkNode {
  // `seed` (32 bytes) is the identity; `onEvent` gets every LDK event.
  constructor(seed, onEvent) {
    this.broadcast = [];
    const fees = ldk.FeeEstimator.new_impl({ get_est_sat_per_1000_weight: () => FEE_RATE });
    const broadcaster = ldk.BroadcasterInterface.new_impl({
      broadcast_transactions: (transactions) => this.broadcast.push(...transactions),
    });
    const logger = ldk.Logger.new_impl({ log: () => {} });
    const persist = ldk.Persist.new_impl({
      persist_new_channel: () => DONE,
      update_persisted_channel: () => DONE,
      archive_persisted_channel: () => {},
    });
    const now = Math.floor(Date.now() / 1000);
    const keys = ldk.KeysManager.constructor_new(seed, BigInt(now), 42);
    const [entropy, signer] = [keys.as_EntropySource(), keys.as_NodeSigner()];
    const graph = ldk.NetworkGraph.constructor_new(NETWORK, logger);
    const scorer = ldk.MultiThreadedLockableScore.constructor_new(
      ldk.ProbabilisticScorer.constructor_new(
        ldk.ProbabilisticScoringDecayParameters.constructor_default(), graph, logger,
      ).as_Score(),
    );
    const router = ldk.DefaultRouter.constructor_new(
      graph, logger, entropy, scorer.as_LockableScore(),
      ldk.ProbabilisticScoringFeeParameters.constructor_default(),
    );
    const messageRouter = ldk.DefaultMessageRouter.constructor_new(graph, entropy);
    this.monitor = ldk.ChainMonitor.constructor_new(
      ldk.Option_FilterZ.constructor_none(), broadcaster, logger, fees, persist,
    );
    const genesis = ldk.BestBlock.constructor_from_network(NETWORK);
    this.manager = ldk.ChannelManager.constructor_new(
      fees, this.monitor.as_Watch(), broadcaster, router.as_Router(),
      messageRouter.as_MessageRouter(), logger, entropy, signer, keys.as_SignerProvider(),
      ldk.UserConfig.constructor_default(), ldk.ChainParameters.constructor_new(NETWORK, genesis),
      now,
    );
    const ignore = ldk.IgnoringMessageHandler.constructor_new();
    this.peers = ldk.PeerManager.constructor_new(
      this.manager.as_ChannelMessageHandler(), ignore.as_RoutingMessageHandler(),
      ignore.as_OnionMessageHandler(), ignore.as_CustomMessageHandler(), 0,
      new Uint8Array(crypto.randomBytes(32)), logger, signer,
    );
    this.net = new NodeLDKNet(this.peers);
    this.handler = ldk.EventHandler.new_impl({
      handle_event: (event) => {
        onEvent(event);
        return ldk.Result_NoneReplayEventZ.constructor_ok();
      },
    });
    this.id = this.manager.get_our_node_id();
    // LDK keeps pointers into these: they must not be collected.
    this.kept = [fees, broadcaster, logger, persist, keys, graph, scorer, router, messageRouter];
    this.timer = setInterval(() => this.tick(), TICK_MS);
    // Time-outs of parts and of peers are counted in these.
    this.minutes = setInterval(() => this.manager.timer_tick_occurred(), 60_000);
  }

  tick() {
    this.manager.process_pending_htlc_forwards();
    this.manager.as_EventsProvider().process_pending_events(this.handler);
    this.monitor.as_EventsProvider().process_pending_events(this.handler);
    this.net.process_events();
  }

  // A block, with one transaction of ours or none.
  connect(header, height, transaction) {
    for (const listener of [this.manager.as_Confirm(), this.monitor.as_Confirm()]) {
      if (transaction) {
        const place = ldk.TwoTuple_usizeTransactionZ.constructor_new(1, transaction);
        listener.transactions_confirmed(header, [place], height);
      }
      listener.best_block_updated(header, height);
    }
  }

  get channel() {
    return this.manager.list_channels()[0];
  }

  stop() {
    clearInterval(this.timer);
    clearInterval(this.minutes);
    this.net.stop();
  }
}
