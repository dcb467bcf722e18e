"""Conformance suites for adapters: subclass the suite of a port and provide its fixtures.

    class TestMyPresence(PresenceContract):
        @pytest.fixture
        def presence(self) -> Presence:
            return MyPresence()

| suite | for the port | fixtures |
|---|---|---|
| `store_contract.StoreContract` | `store.Store`, most of it | `store` |
| `audiences_contract.AudiencesContract` | `store.Audiences` | `store`, `populate` |
| `targeting_contract.TargetingContract` | `audiences.Topics`, `audiences.SavedAudiences`, kinds of sets | `store` |
| `limits_contract.LimitsContract` | `operations.UserLimits` | `store` |
| `dead_letters_contract.DeadLettersContract` | `operations.DeadLetters` | `store` |
| `processes_contract.ProcessesContract` | `operations.Processes` | `store` |
| `schedules_contract.SchedulesContract` | `operations.Schedules` | `store` |
| `channel_contract.ChannelContract` | `channel.Channel`, and `channels.plugin.ChannelPlugin` | `harness` |
| `queue_contract.QueueContract` | `queue.Queue` | `queue` |
| `cache_contract.CacheContract` | `cache.Cache` | `cache` |
| `cache_contract.SharedCacheContract` | `cache.Cache` of several processes | `cache`, `other` |
| `presence_contract.PresenceContract` | `presence.Presence` | `presence` |
| `clock_contract.ClockContract` | `clock.Clock` | `clock` |

Each suite's docstring describes its fixtures. A fixture provides an empty adapter and closes it after its `yield`.
The suites require pytest, pytest-asyncio in mode `auto`, and Hypothesis for audiences. Call
`pytest.register_assert_rewrite("tidings.testing.contracts")` in the root `conftest.py` before the suites are imported,
so that a failed assertion shows its values. docs/howto/own-adapter.md is a step-by-step guide.
"""
