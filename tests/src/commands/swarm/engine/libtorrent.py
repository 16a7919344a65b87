"""One libtorrent client of a measured room: python3 libtorrent.py seed|node TORRENT FOLDER"""

import sys

import libtorrent as lt

role, torrent, folder = sys.argv[1:4]
settings = lt.high_performance_seed() if role == "seed" else lt.default_settings()
settings.update({
    "listen_interfaces": "0.0.0.0:6881",
    "alert_mask": lt.alert.category_t.status_notification | lt.alert.category_t.error_notification,
    # One room behind one switch: nothing to look for outside, and TCP only.
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "in_enc_policy": lt.enc_policy.disabled,
    "out_enc_policy": lt.enc_policy.disabled,
    # Everybody may fetch from everybody at once.
    "unchoke_slots_limit": -1,
    "connections_limit": 1000,
    "connection_speed": 500,
    "torrent_connect_boost": 250,
    "min_reconnect_time": 1,
    "min_announce_interval": 1,
    "max_out_request_queue": 1500,
    "max_allowed_in_request_queue": 2000,
    "allow_multiple_connections_per_ip": False,
    "close_redundant_connections": True,
    "rate_limit_ip_overhead": False,
    "mixed_mode_algorithm": 0,
    "peer_turnover": 0,
})
settings = {name: value for name, value in settings.items() if name in lt.default_settings()}
session = lt.session(settings)
if role == "node":
    print("READY", flush=True)
    sys.stdin.readline()

parameters = lt.add_torrent_params()
parameters.ti = lt.torrent_info(torrent)
parameters.save_path = folder
parameters.flags &= ~(lt.torrent_flags.paused | lt.torrent_flags.auto_managed)
if role == "seed":
    parameters.flags |= lt.torrent_flags.seed_mode
handle = session.add_torrent(parameters)
while True:
    session.wait_for_alert(60000)
    for alert in session.pop_alerts():
        if isinstance(alert, lt.torrent_finished_alert) and role == "node":
            print("FINISHED", flush=True)
        elif alert.category() & lt.alert.category_t.error_notification:
            print(alert, flush=True)
