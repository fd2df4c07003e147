package hydra.agent;

/**
 * What functions see besides their own code: the JDK, and of the agent the interface {@code org.crac}. The JDK includes modules that belong to the
 * application's loader, where the agent is too: hence a filter, and not the platform's loader.
 */
final class VisibleLoader extends ClassLoader {
    static final VisibleLoader INSTANCE = new VisibleLoader();

    private VisibleLoader() {
        super(getSystemClassLoader());
    }

    @Override
    protected Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
        if (name.startsWith("hydra.agent.")) {
            throw new ClassNotFoundException(name);
        }
        return super.loadClass(name, resolve);
    }
}
