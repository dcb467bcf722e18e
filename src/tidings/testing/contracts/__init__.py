"""Conformance suites: an adapter is right when a test class made from its suite and a fixture passes.

    class TestMyPresence(PresenceContract):
        @pytest.fixture
        def presence(self) -> Presence:
            return MyPresence()

| suite | for the port | fixtures |
|---|---|---|
| `store_contract.StoreContract` | `store.Store`, most of it | `store` |
| `audiences_contract.AudiencesContract` | `store.Audiences` | `store`, `populate` |
| `limits_contract.LimitsContract` | `operations.UserLimits` | `store` |
| `dead_letters_contract.DeadLettersContract` | `operations.DeadLetters` | `store` |
| `processes_contract.ProcessesContract` | `operations.Processes` | `store` |
| `schedules_contract.SchedulesContract` | `operations.Schedules` | `store` |
| `queue_contract.QueueContract` | `queue.Queue` | `queue` |
| `cache_contract.CacheContract` | `cache.Cache` | `cache` |
| `cache_contract.SharedCacheContract` | `cache.Cache` of several processes | `cache`, `other` |
| `presence_contract.PresenceContract` | `presence.Presence` | `presence` |
| `clock_contract.ClockContract` | `clock.Clock` | `clock` |

Each suite's docstring says what its fixtures must be. A fixture gives something empty, and closes it after its `yield`.
The suites need pytest, pytest-asyncio in its mode `auto`, and Hypothesis for audiences. Call
`pytest.register_assert_rewrite("tidings.testing.contracts")` in the root `conftest.py`, before anything imports them:
otherwise a failed assertion does not show its values. docs/howto/own-adapter.md goes through it step by step.
"""
