"""Code that runs inside vLLM's engine process: the state feed and the emulated executor.

Nothing of vLLM is patched. The classes here are named on vLLM's own command line (``--scheduler-cls``,
``--distributed-executor-backend``) and configured through its ``--additional-config``.
"""
