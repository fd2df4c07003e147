package hydra.agent;

import java.io.File;
import java.io.IOException;
import java.net.MalformedURLException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.jar.Attributes;
import java.util.jar.JarFile;
import java.util.jar.Manifest;

/**
 * Loads a function's classes from a jar, a class file, or a directory with classes and jars. Its parent is
 * {@link VisibleLoader}, so that a function sees the JDK, but neither the agent nor another function.
 */
final class CodeLoader extends URLClassLoader {
    private static final int MOST_NAMES = 20;

    private final File code;
    private final List<File> roots;
    /** The class of a class file; null for other code. */
    private Class<?> single;

    private CodeLoader(File code, List<File> roots) throws MalformedURLException {
        super(urls(roots), VisibleLoader.INSTANCE);
        this.code = code;
        this.roots = roots;
    }

    static CodeLoader open(String path) throws LoadException {
        File code = new File(path);
        try {
            if (code.isDirectory()) {
                List<File> roots = new ArrayList<>(List.of(code));
                roots.addAll(jarsIn(code));
                roots.addAll(jarsIn(new File(code, "lib")));
                return new CodeLoader(code, roots);
            }
            if (!code.isFile()) {
                throw new LoadException(java.io.FileNotFoundException.class, "there is no code at " + path);
            }
            if (path.endsWith(".class")) {
                CodeLoader loader = new CodeLoader(code, List.of());
                loader.defineSingle();
                return loader;
            }
            new JarFile(code).close();
            return new CodeLoader(code, List.of(code));
        } catch (IOException e) {
            throw new LoadException("cannot read the code " + code.getName() + ": " + e.getMessage(), e);
        }
    }

    /** The name of the class to run if the registration names none, or null. */
    String defaultClass() throws LoadException {
        if (single != null) {
            return single.getName();
        }
        for (File root : roots) {
            if (root.isFile()) {
                try (JarFile jar = new JarFile(root)) {
                    Manifest manifest = jar.getManifest();
                    String name = manifest == null ? null : manifest.getMainAttributes().getValue(Attributes.Name.MAIN_CLASS);
                    if (name != null) {
                        return name.trim();
                    }
                } catch (IOException e) {
                    throw new LoadException("cannot read the code " + root.getName() + ": " + e.getMessage(), e);
                }
            }
        }
        return null;
    }

    /** The classes there are, for a message: {@code Main, com.example.Other}. */
    String describeClasses() {
        Set<String> names = new TreeSet<>();
        if (single != null) {
            names.add(single.getName());
        }
        for (File root : roots) {
            if (root.isFile()) {
                try (JarFile jar = new JarFile(root)) {
                    jar.stream().forEach(entry -> addClass(names, entry.getName()));
                } catch (IOException e) {
                    // What cannot be read has no classes to name.
                }
            } else {
                try (var files = Files.walk(root.toPath(), 8)) {
                    files.forEach(file -> addClass(names, root.toPath().relativize(file).toString()));
                } catch (IOException | java.io.UncheckedIOException e) {
                    // As above.
                }
            }
        }
        if (names.isEmpty()) {
            return "there are no classes in " + code.getName();
        }
        String list = String.join(", ", names.stream().limit(MOST_NAMES).toList());
        return "there is " + list + (names.size() > MOST_NAMES ? " and " + (names.size() - MOST_NAMES) + " more" : "");
    }

    private static void addClass(Set<String> names, String file) {
        if (file.endsWith(".class") && file.indexOf('$') < 0 && file.indexOf('-') < 0) {
            names.add(file.substring(0, file.length() - ".class".length()).replace('/', '.'));
        }
    }

    /** Defines the class of a class file, and makes those beside it (its inner classes) findable. */
    private void defineSingle() throws IOException {
        byte[] bytes = Files.readAllBytes(code.toPath());
        single = defineClass(null, bytes, 0, bytes.length);
        File root = code.getAbsoluteFile().getParentFile();
        for (int i = 0, depth = packageDepth(single.getPackageName()); i < depth && root != null; i++) {
            root = root.getParentFile();
        }
        if (root != null) {
            addURL(root.toURI().toURL());
        }
    }

    private static int packageDepth(String name) {
        return name.isEmpty() ? 0 : name.split("\\.").length;
    }

    private static List<File> jarsIn(File directory) {
        File[] jars = directory.listFiles((parent, name) -> name.endsWith(".jar"));
        if (jars == null) {
            return List.of();
        }
        // The order of a directory is not the same everywhere, and which of two equal classes is taken depends on it.
        Arrays.sort(jars);
        return List.of(jars);
    }

    private static URL[] urls(List<File> roots) throws MalformedURLException {
        URL[] urls = new URL[roots.size()];
        for (int i = 0; i < urls.length; i++) {
            urls[i] = roots.get(i).toURI().toURL();
        }
        return urls;
    }
}
